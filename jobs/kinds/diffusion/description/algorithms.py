"""How a diffusion model trains and samples, and what that costs, in words, by the settings of its spec."""

from jobs.kinds.diffusion.description.objective import DDPM, FORWARD, IDDPM, network_call, objective
from jobs.kinds.diffusion.sections import DiffusionSpec, kept_steps
from jobs.spec.kinds import Description

STEPS = {
    "ancestral": f"x_{{t−1}} = μ̃_t(x_t, x̂₀) + σ_t z, z ~ N(0, I), without noise at the last step ({DDPM}, algorithm 2)",
    "ddim": "x_{t−1} = √ᾱ_{t−1} · x̂₀ + √(1 − ᾱ_{t−1} − σ²) · ε̂ + σ z (Song, Meng & Ermon 2021, eq. 12)",
    "dpmpp_2m": "x_{t−1} by a line through this x̂₀ and the last one, in log-SNR (Lu et al. 2022, DPM-Solver++(2M))",
    "unipc": "correct x_t by the new x̂₀, then predict x_{t−1}, both of order 2 in log-SNR (Zhao et al. 2023, UniPC)",
    "heun": "an Euler step to t − 1, and again with the mean of the slopes at both ends (Karras et al. 2022, algorithm 1)",
}
"""By `sample.sampler`: one step of the chain."""
NETWORK_COST = ("F, one forward pass, is O(H · W · C²) for convolutions of C channels and O((H · W)² · C) for attention, at each "
                "resolution that has them")
"""Of a U-Net."""


def description(spec: DiffusionSpec) -> Description:
    aim = objective(spec)
    return Description(aim.title, aim.formula, aim.source, _training(spec), _sampling(spec),
                       "O(iterations · B · F) for batches of B images: 3 F an image (forward, and twice that backward), "
                       f"whatever T is; {NETWORK_COST}.", _sampling_cost(spec))


def _training(spec: DiffusionSpec) -> tuple[str, ...]:
    how = ("uniformly" if spec.train.schedule_sampler == "uniform" else
           f"in proportion to √E[L_t²], and weigh the losses against it ({IDDPM}, eq. 18)")
    classes = " with their classes y" if spec.data.class_cond else ""
    dropped = ", some of them without the class" if spec.train.label_dropout else ""
    return (f"Draw B images x₀{classes}{dropped} from the data.",
            f"Draw t from 1 … T {how}, and ε ~ N(0, I).",
            f"Make {FORWARD}.",
            f"Evaluate {network_call(spec)} once; take a step of AdamW down the gradient of the loss.",
            "Average the weights over the steps (EMA).")


def _sampling(spec: DiffusionSpec) -> tuple[str, ...]:
    sample, steps = spec.sample, len(kept_steps(spec, spec.sample.timestep_respacing))
    chain = "T steps" if steps == spec.diffusion.diffusion_steps else "N of the T steps"
    clipped = ", clipped to the range of images" if sample.clip_denoised else ""
    return ("Draw x_T ~ N(0, I).",
            f"For each of {chain}, from the noisiest down: evaluate {network_call(spec)}, which implies an image x̂₀{clipped};",
            f"then {STEPS[sample.sampler]}.",
            *([f"Guidance of kind {sample.guidance.kind} changes each prediction."] if sample.guidance else []),
            "Round the last x to grey levels.")


def _sampling_cost(spec: DiffusionSpec) -> str:
    each = "2 N − 1 evaluations of the network" if spec.sample.sampler == "heun" else "N evaluations of the network"
    guided = " and those of guidance" if spec.sample.guidance else ""
    return (f"O(N · F) a sample: {each}{guided}, one after another, for a chain of N steps; N = T for the full chain, and any "
            "shorter chain with the same weights.")
