"""The samplings of one run: a main one, and others for curves over training steps and over lengths of the chain."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from diffusion.respacing import space_timesteps
from jobs.spec.sections import Spec


@dataclass(frozen=True)
class Sampling:
    """One way to sample from a run; whatever else it takes is the same for all of them."""

    step: int
    """Training step of the checkpoint."""
    sampler: Literal["ancestral", "ddim"]
    timestep_respacing: str


def samplings(spec: Spec) -> list[Sampling]:
    """The main sampling first, then those of `sample.at`, then those of `evaluate.respacings`; each once."""
    return list(dict.fromkeys(_samplings(spec)))


def _samplings(spec: Spec) -> Iterator[Sampling]:
    last, sample = spec.train.iterations, spec.sample
    yield Sampling(last, sample.sampler, sample.timestep_respacing)
    for step in sample.at:
        yield Sampling(last if step == "last" else step, sample.sampler, sample.timestep_respacing)
    for timestep_respacing in spec.evaluate.respacings:
        yield Sampling(last, "ancestral", timestep_respacing)
        yield Sampling(last, "ddim", timestep_respacing)


def with_sampling(spec: Spec, sampling: Sampling) -> Spec:
    """`spec` with the sampler and the chain of `sampling` in place of the main ones."""
    sample = spec.sample.model_copy(update={"sampler": sampling.sampler, "timestep_respacing": sampling.timestep_respacing})
    return spec.model_copy(update={"sample": sample})


def likelihoods(spec: Spec) -> list[tuple[int, str]]:
    """The chains to compute bits/dim over, (training step, timestep_respacing): the full one, and those of ancestral points.

    A sample of DDIM has no likelihood of its own.
    """
    if not spec.evaluate.nll_examples:
        return []
    ancestral = [(sampling.step, sampling.timestep_respacing) for sampling in samplings(spec) if sampling.sampler == "ancestral"]
    return list(dict.fromkeys([(spec.train.iterations, ""), *ancestral]))


def chain_length(spec: Spec, timestep_respacing: str) -> int:
    """Steps of the chain of that respacing."""
    return len(space_timesteps(spec.diffusion.diffusion_steps, timestep_respacing))
