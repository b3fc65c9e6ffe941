"""The samplings of one run: a main one, and others for curves over training steps and over ways to sample."""

from dataclasses import dataclass
from typing import Any, TypeVar

from jobs.spec.kinds import Changes, kind_of
from jobs.spec.sections import Spec

AnySpec = TypeVar("AnySpec", bound=Spec)


@dataclass(frozen=True)
class Sampling:
    """One way to sample from a run: the weights of one training step, and settings in place of the spec's own."""

    step: int
    """Training step of the checkpoint."""
    changes: Changes = ()
    """Settings that replace those of the spec's `sample` section; () for none."""


def samplings(spec: Spec) -> list[Sampling]:
    """Return the main sampling, then those of `sample.at`, then those that `evaluate` needs; each once."""
    last = spec.train.iterations
    steps = [last if step == "last" else step for step in spec.sample.at]
    others = [Sampling(last, _differing(spec, changes)) for changes in kind_of(spec).samplings(spec)]
    return list(dict.fromkeys([Sampling(last), *map(Sampling, steps), *others]))


def _differing(spec: Spec, changes: Changes) -> Changes:
    return tuple((key, value) for key, value in changes if getattr(spec.sample, key) != value)


def with_changes(spec: AnySpec, changes: Changes) -> AnySpec:
    """Return `spec` with `changes` in its `sample` section."""
    if not changes:
        return spec
    return spec.model_copy(update={"sample": spec.sample.model_copy(update=dict(changes))})


def with_sampling(spec: AnySpec, sampling: Sampling) -> AnySpec:
    """Return `spec` with the settings of `sampling` in its `sample` section."""
    return with_changes(spec, sampling.changes)


def sampling_facts(spec: Spec, sampling: Sampling) -> dict[str, Any]:
    """Return the facts about `sampling` in evaluation.json: the training step and the kind's own facts."""
    return {"step": sampling.step, **kind_of(spec).sampling_facts(with_sampling(spec, sampling))}


def folder_name(spec: Spec, sampling: Sampling) -> str:
    """Return the name of the folder of `sampling` in samples/: such as "step-00001000,ddim,25"."""
    facts = kind_of(spec).sampling_facts(with_sampling(spec, sampling))
    words = [str(value) or "full" for key, value in facts.items() if key != "sampling_steps"]
    return ",".join([f"step-{sampling.step:08}", *words])
