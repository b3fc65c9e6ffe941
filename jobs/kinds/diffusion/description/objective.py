"""What a diffusion model minimises, in words and formulas, by the settings of its spec."""

from dataclasses import dataclass

from diffusion.objectives import LOSSES
from jobs.kinds.diffusion.sections import DiffusionSpec

DDPM = "Ho, Jain & Abbeel 2020 (arXiv 2006.11239)"
IDDPM = "Nichol & Dhariwal 2021 (arXiv 2102.09672)"
FORWARD = "x_t = √ᾱ_t · x₀ + √(1 − ᾱ_t) · ε"
"""DDPM eq. 4."""
BOUND = "L_vlb = L₀ + Σ_{t>1} KL(q(x_{t−1} | x_t, x₀) ‖ p_θ(x_{t−1} | x_t)) + L_T"
"""IDDPM eq. 4 to 7."""
VARIANCE = "Σ_θ = exp(v · log β_t + (1 − v) · log β̃_t)"
"""IDDPM eq. 15."""
TARGETS = {"epsilon": ("ε", "ε_θ"), "x_start": ("x₀", "x_θ"), "x_prev": ("μ̃_t(x_t, x₀)", "μ_θ"),
           "v": ("(√ᾱ_t · ε − √(1 − ᾱ_t) · x₀)", "v_θ")}
"""By `diffusion.predict`: what the network shall predict, and the name of its prediction."""
WEIGHTS = {"none": ("", ""), "min_snr": ("w(t) · ", "weights: Hang et al. 2023 (Min-SNR)"),
           "p2": ("w(t) · ", "weights: Choi et al. 2022 (P2)")}
"""By `diffusion.loss_weight`: the factor in the formula, and its source."""


@dataclass(frozen=True)
class Objective:
    title: str
    formula: str
    source: str


def network_call(spec: DiffusionSpec) -> str:
    """Return the prediction of the network as formulas write it: "ε_θ(x_t, t, y)"."""
    return f"{TARGETS[spec.diffusion.predict][1]}(x_t, t{', y' if spec.data.class_cond else ''})"


def objective(spec: DiffusionSpec) -> Objective:
    """Return the objective that `diffusion.loss` names."""
    target, (factor, weights) = TARGETS[spec.diffusion.predict][0], WEIGHTS[spec.diffusion.loss_weight]
    simple = f"L_simple = E_{{x₀, ε, t}} [{factor}‖{target} − {network_call(spec)}‖²], {FORWARD}"
    learned = f"{BOUND}, {VARIANCE}"
    found = {
        "simple": Objective("DDPM", simple, f"{DDPM}, eq. 14"),
        "hybrid": Objective("IDDPM", f"L_hybrid = L_simple + 0.001 · L_vlb; {simple}; {learned}; the bound trains Σ_θ alone",
                            f"{IDDPM}, eq. 16, 4 and 15; L_simple: {DDPM}, eq. 14"),
        "hybrid_unscaled": Objective("IDDPM", f"L = L_simple + L_vlb / T; {simple}; {learned}; the bound trains Σ_θ alone",
                                     f"{IDDPM}, eq. 16, with the scale of Dhariwal & Nichol 2021; L_simple: {DDPM}, eq. 14"),
        "vlb": Objective("IDDPM, the bound alone", learned, f"{IDDPM}, eq. 4 and 15"),
        "vlb_unscaled": Objective("IDDPM, the bound alone", f"L = L_vlb / T; {learned}",
                                  f"{IDDPM}, eq. 4 and 15, with the scale of Dhariwal & Nichol 2021"),
    }[spec.diffusion.loss]
    units = "; ".join([*(["‖·‖² is a mean over pixels"] if LOSSES[spec.diffusion.loss].mse else []),
                       *(["L_vlb in bits/dim"] if LOSSES[spec.diffusion.loss].bound else [])])
    return Objective(found.title, f"{found.formula}; {units}", "; ".join(filter(None, [found.source, weights])))
