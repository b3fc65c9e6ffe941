"""What guides a sampling of a diffusion model, what that costs, and what rules it out. No torch."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from diffusion.coefficients import Coefficients
from diffusion.guidance.intervals import sigma_of, strength
from diffusion.respacing import space_timesteps
from diffusion.samplers.table import SAMPLERS
from diffusion.schedules import betas_of, respaced_betas
from jobs.kinds.diffusion.guidance_section import Autoguidance, ClassifierFree, ClassifierGuidance, Guidance
from jobs.kinds.diffusion.sections import DiffusionSpec, has_null_class
from jobs.kinds.noisy_classifier.sections import ClassifierSpec
from jobs.spec.averages import average_problems
from jobs.spec.keys import value_at
from jobs.spec.kinds import Changes, Guide
from jobs.spec.reading.yaml_text import yaml_text
from jobs.spec.sections import Contradiction, Spec

KEY = "sample.guidance"
OF_THE_IMAGES = ("data.image_size", "data.channels")
OF_THE_PROCESS = ("diffusion.diffusion_steps", "diffusion.noise_schedule", "diffusion.rescale_timesteps")
"""Keys that a guide must have in common with what it guides."""


def guide_of(spec: DiffusionSpec) -> Guide | None:
    """Return the other network, or the other weights, that guide spec.sample; None: nothing, or the network itself."""
    guidance = spec.sample.guidance
    if isinstance(guidance, ClassifierGuidance):
        return Guide(guidance.run, passes=2)
    if isinstance(guidance, Autoguidance):
        return Guide(guidance.run, guidance.at, _average(spec, guidance))
    return None


def _average(spec: DiffusionSpec, guidance: Autoguidance) -> Changes:
    """Return the settings of `sample` that choose the average of the weaker network."""
    if guidance.ema_rate is not None:
        return (("ema_rate", guidance.ema_rate), ("ema_sigma_rel", None))
    if guidance.run is None:
        return (("ema_rate", spec.sample.ema_rate), ("ema_sigma_rel", spec.sample.ema_sigma_rel))
    return ()  # as the other run samples


def strengths(guidance: Guidance | None, alphas_cumprod: np.ndarray) -> np.ndarray:
    """Return the strength of guidance at each step of a chain with these alpha_bar, float64 [K]; 0 at steps that cost nothing
    more."""
    if guidance is None:
        return np.zeros(len(alphas_cumprod))
    return strength(alphas_cumprod, guidance.strength, guidance.interval)


def guided_evaluations(spec: DiffusionSpec) -> int:
    """Return how often one sample evaluates the guide, or the network without the class, besides the network itself."""
    guidance = spec.sample.guidance
    if guidance is None or not guidance.strength:
        return 0
    at = strengths(guidance, _alphas_cumprod(spec))
    return sum(1 for number in SAMPLERS[spec.sample.sampler].evaluated(len(at)) if at[number])


def _alphas_cumprod(spec: DiffusionSpec) -> np.ndarray:
    """alpha_bar [K] of the chain of spec.sample, as `diffusion.gaussian` has it to the bit: both count the steps in an
    interval."""
    return _of_chain(spec.diffusion.noise_schedule, spec.diffusion.diffusion_steps, spec.sample.timestep_respacing)


@lru_cache(maxsize=1000)
def _of_chain(noise_schedule: str, diffusion_steps: int, timestep_respacing: str) -> np.ndarray:
    betas = betas_of(noise_schedule, diffusion_steps)
    if timestep_respacing:
        betas = respaced_betas(betas, space_timesteps(diffusion_steps, timestep_respacing, noise_schedule))
    return Coefficients.of(betas).alphas_cumprod


def guidance_contradictions(spec: DiffusionSpec) -> list[Contradiction]:
    """Return what rules out the guidance of spec.sample, as far as `spec` alone shows. The chain must be in order."""
    guidance, found = spec.sample.guidance, list[Contradiction]()
    if guidance is None:
        return found
    if isinstance(guidance, ClassifierFree):
        if not spec.data.class_cond:
            found.append((KEY, "kind classifier_free follows a class, but data.class_cond is off"))
        elif not has_null_class(spec):
            found.append((KEY, "kind classifier_free needs a network that was also trained without classes; set "
                          "train.label_dropout: 0.1"))
    if isinstance(guidance, Autoguidance):
        found += _of_own_weights(spec, guidance)
    if guidance.interval is not None and guidance.strength:
        found += _empty_interval(spec, guidance.interval)
    return found


def _of_own_weights(spec: DiffusionSpec, guidance: Autoguidance) -> Iterator[Contradiction]:
    if guidance.run is not None:
        return
    train = spec.train
    yield from _missing_weights(guidance, spec)
    own = None if spec.sample.ema_sigma_rel is not None else spec.sample.ema_rate
    if guidance.at in (None, train.iterations) and guidance.ema_rate in (None, own):
        yield KEY, "guides the network by itself; give run, at or ema_rate, so that the guide is a weaker one"


def _empty_interval(spec: DiffusionSpec, interval: list[float]) -> Iterator[Contradiction]:
    try:
        alphas_cumprod = _alphas_cumprod(spec)
    except ValueError:  # another contradiction says that there is no such chain
        return
    if not strengths(spec.sample.guidance, alphas_cumprod).any():
        sigma = sigma_of(alphas_cumprod)
        yield f"{KEY}.interval", (f"no step of this chain has a sigma in [{interval[0]:g}, {interval[1]:g}]; its {len(sigma)} "
                                  f"steps have {sigma.min():.4g} to {sigma.max():.4g}")


def guide_problems(spec: DiffusionSpec, other: Spec) -> Iterator[Contradiction]:
    """Yield why the run that spec.sample.guidance names, with the spec `other`, cannot guide: the key, and a message."""
    guidance = spec.sample.guidance
    if guidance is None or isinstance(guidance, ClassifierFree) or guidance.run is None:
        return
    run, auto = f"{KEY}.run", isinstance(guidance, Autoguidance)
    if other.kind != spec.kind if auto else not isinstance(other, ClassifierSpec):
        wanted = spec.kind if auto else "noisy_classifier"
        yield run, f"{guidance.run} is of kind: {other.kind}; a guide of kind {guidance.kind} is a run of kind: {wanted}"
        return
    shared = [*OF_THE_IMAGES, *OF_THE_PROCESS, *(["diffusion.predict"] if auto else [])]
    for key in [key for key in shared if value_at(spec, key) != value_at(other, key)]:
        theirs, ours = (yaml_text(value_at(each, key)) for each in (other, spec))
        yield run, (f"{guidance.run} has {key}: {theirs}, and this run has {ours}; a guide must see the same images with the "
                    "same noise at the same times")
    classes = other.data.classes
    if classes != spec.data.classes and (auto or spec.data.classes is not None):
        yield run, f"{guidance.run} has {classes or 'no'} classes, and this run {spec.data.classes or 'none'}"
    if isinstance(guidance, Autoguidance):
        yield from _missing_weights(guidance, other)


def _missing_weights(guidance: Autoguidance, spec: Spec) -> Iterator[Contradiction]:
    """Yield why the run of the guide, whose spec is `spec`, will not have the weights that guide."""
    train, at, of = spec.train, guidance.at, f" of {guidance.run}" if guidance.run else ""
    if at is not None and at > train.iterations:
        yield f"{KEY}.at", f"step {at} is beyond train.iterations {train.iterations}{of}"
    if guidance.ema_rate is not None and guidance.ema_rate not in train.ema_rate:
        yield f"{KEY}.ema_rate", f"{guidance.ema_rate} is not among train.ema_rate {train.ema_rate}{of}"
    length = spec.sample.ema_sigma_rel
    if guidance.ema_rate is None and at is not None and at <= train.iterations and length is not None:
        for problem in average_problems(train.iterations, train.ema_sigma_rel, train.ema_snapshots, length, [at]):
            yield f"{KEY}.at", f"step {at} has no average sample.ema_sigma_rel{of} {problem}; or give guidance.ema_rate"
