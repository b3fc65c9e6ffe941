"""Facts that only runs of a diffusion model have. No other file of the report reads the spec's sections `model` and `diffusion`.

Each function takes a spec of any kind of model. For a kind without these sections it returns nothing (None, an empty list or
an empty text), and the report leaves the panel out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffusion.samplers.table import SAMPLERS
from diffusion.schedules import alphas_cumprod_of, betas_of, forward_weights
from jobs.kinds.diffusion.guidance_section import Autoguidance, ClassifierFree, ClassifierGuidance
from jobs.kinds.diffusion.sections import Diffusion, Model
from jobs.spec.kinds import MODEL, kind_of
from jobs.spec.layer_cost import LayerCost
from jobs.spec.sampling_names import CHAIN as FIRST
from jobs.spec.sections import Spec

CHAIN = (*FIRST, "ddim_eta", "clip_denoised", "dynamic_thresholding_ratio")
"""Keys of `sample` that choose how to go along the chain: whatever they are, samples should come from one distribution."""
UNGUIDED: Mapping[str, float] = {"classifier_free": ClassifierFree.UNGUIDED, "classifier": ClassifierGuidance.UNGUIDED,
                                 "autoguidance": Autoguidance.UNGUIDED}
"""The scale at which each kind of guidance is none."""
SHORTER_CHAINS = (25, 50, 100, 250, 1000)
STRIP = 9  # images in the strip from data to noise


@dataclass(frozen=True)
class Setting:
    """What a published figure says of the model that it belongs to."""

    diffusion_steps: int
    noise_schedule: str
    loss: str


@dataclass(frozen=True)
class NoiseSchedule:
    name: str
    """Such as "cosine, T = 4,000"."""
    alphas_cumprod: np.ndarray
    """The share of the signal's variance that is left at each timestep: [T], in 0 .. 1."""


@dataclass(frozen=True)
class NoisedStrip:
    """One image at STRIP evenly spaced timesteps of the forward process."""

    images: np.ndarray
    """uint8 [STRIP, H, W, C]."""
    caption: str


def _process(spec: Spec | None) -> Diffusion | None:
    process = getattr(spec, "diffusion", None)
    return process if isinstance(process, Diffusion) else None  # a classifier has no more than the process of noise


def _network(spec: Spec | None) -> Model | None:
    return getattr(spec, "model", None)


def setting_of(spec: Spec | None) -> Setting | None:
    process = _process(spec)
    return None if process is None else Setting(process.diffusion_steps, process.noise_schedule, process.loss)


def setting_in_words(spec: Spec) -> str:
    """For the question that a study of a single setting asks."""
    setting = setting_of(spec)
    return "" if setting is None else (f"{setting.noise_schedule} noise with the {setting.loss} loss over "
                                       f"{setting.diffusion_steps:,} diffusion steps")


def chain_steps(spec: Spec) -> int | None:
    """T, the steps of the full chain."""
    process = _process(spec)
    return None if process is None else process.diffusion_steps


def evaluations_of(sampler: str, steps: int) -> int:
    """How often a chain of so many steps evaluates the network, without guidance."""
    return SAMPLERS[sampler].evaluations(steps) if sampler in SAMPLERS else steps


def sampling_lengths(spec: Spec, main: int) -> list[int]:
    """Numbers of steps to compare the cost of sampling at, ascending: `main` of this run, shorter chains, and the full one."""
    full = chain_steps(spec)
    return sorted({main, full, *(steps for steps in SHORTER_CHAINS if steps < full)}) if full else [main]


def bound_examples(spec: Spec) -> int:
    """How many held-out examples bits/dim is computed of."""
    return getattr(spec.evaluate, "nll_examples", 0) if _process(spec) else 0


def held_out_data(spec: Spec) -> str | None:
    """Path of the examples that bits/dim is computed of."""
    return getattr(spec.evaluate, "nll_data", None)


def layers_of(spec: Spec) -> Sequence[LayerCost]:
    """The layers of the network that samples."""
    return kind_of(spec).layers(spec)[MODEL]


def doubled(spec: Spec) -> dict[str, Spec]:
    """The spec with one size of the network or the images doubled, by what is doubled."""
    data, model = spec.data, _network(spec)
    if model is None:
        return {}
    attended = [2 * size for size in getattr(model, "attention_resolutions", [])]
    return {
        "image size (attention at the same levels)" if attended else "image size": spec.model_copy(update={
            "data": data.model_copy(update={"image_size": 2 * data.image_size}),
            "model": model.model_copy(update={"attention_resolutions": attended} if attended else {})}),
        "num_channels": spec.model_copy(update={"model": model.model_copy(update={"num_channels": 2 * model.num_channels})}),
        "image channels": spec.model_copy(update={"data": data.model_copy(update={"channels": 2 * data.channels})})}


def noise_schedules(specs: Iterable[Spec]) -> list[NoiseSchedule]:
    """The noise schedules among `specs`, each once."""
    settings = [setting for spec in specs if (setting := setting_of(spec))]
    chains = dict.fromkeys((setting.noise_schedule, setting.diffusion_steps) for setting in settings)
    return [NoiseSchedule(f"{name}, T = {steps:,}", alphas_cumprod_of(betas_of(name, steps))) for name, steps in chains]


def noised(spec: Spec, image: np.ndarray) -> NoisedStrip | None:
    """Add noise to `image`, uint8 [H, W, C], by the forward process. All strips have equal noise, at every timestep."""
    setting = setting_of(spec)
    if setting is None:
        return None
    steps = setting.diffusion_steps
    t = np.linspace(0, steps - 1, STRIP).round().astype(int)
    of_image, of_noise = (weights[t].reshape(-1, 1, 1, 1) for weights in forward_weights(betas_of(setting.noise_schedule, steps)))
    noise = np.random.default_rng(0).standard_normal(image.shape)
    x = of_image * (np.asarray(image, dtype=np.float64) / 127.5 - 1) + of_noise * noise
    return NoisedStrip(np.rint((x.clip(-1, 1) + 1) * 127.5).astype(np.uint8),
                       f"{setting.noise_schedule}, T = {steps:,}: t = {', '.join(f'{step:,}' for step in t)}")
