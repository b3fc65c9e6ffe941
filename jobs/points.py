"""The samplings of one run: a main one, and others for curves over training steps and over lengths of the chain."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from diffusion.respacing import space_timesteps
from jobs.spec import Spec

if TYPE_CHECKING:
    from jobs.rundir import RunDir


@dataclass(frozen=True)
class Point:
    """One way to sample from a run; whatever else it takes is the same for all of them."""

    step: int
    """Training step of the checkpoint."""
    sampler: Literal["ancestral", "ddim"]
    timestep_respacing: str


def points(spec: Spec) -> list[Point]:
    """The main sampling first, then those of `sample.at`, then those of `evaluate.respacings`; each once."""
    return list(dict.fromkeys(_points(spec)))


def _points(spec: Spec) -> Iterator[Point]:
    last, sample = spec.train.iterations, spec.sample
    yield Point(last, sample.sampler, sample.timestep_respacing)
    for step in sample.at:
        yield Point(last if step == "last" else step, sample.sampler, sample.timestep_respacing)
    for timestep_respacing in spec.evaluate.respacings:
        yield Point(last, "ancestral", timestep_respacing)
        yield Point(last, "ddim", timestep_respacing)


def samples_folder(run: "RunDir", point: Point) -> Path:
    """Where the chunks and samples.h5 of `point` lie: for the main one samples/, else a folder in it that names it."""
    if point == points(run.spec)[0]:
        return run.samples
    return run.samples / f"step-{point.step:08},{point.sampler},{point.timestep_respacing or 'full'}"


def at_point(spec: Spec, point: Point) -> Spec:
    """`spec` with the sampler and the chain of `point` in place of the main ones."""
    sample = spec.sample.model_copy(update={"sampler": point.sampler, "timestep_respacing": point.timestep_respacing})
    return spec.model_copy(update={"sample": sample})


def likelihoods(spec: Spec) -> list[tuple[int, str]]:
    """The chains to compute bits/dim over, (training step, timestep_respacing): the full one, and those of ancestral points.

    A sample of DDIM has no likelihood of its own.
    """
    if not spec.evaluate.nll_examples:
        return []
    ancestral = [(point.step, point.timestep_respacing) for point in points(spec) if point.sampler == "ancestral"]
    return list(dict.fromkeys([(spec.train.iterations, ""), *ancestral]))


def chain_length(spec: Spec, timestep_respacing: str) -> int:
    """Steps of the chain of that respacing."""
    return len(space_timesteps(spec.diffusion.diffusion_steps, timestep_respacing))
