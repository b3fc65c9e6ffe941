"""The samplings of one run: a main one, and others for curves over training steps and over ways to sample."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel

from jobs.spec.keys import place_of
from jobs.spec.kinds import Changes, Guide, draws_samples, kind_of
from jobs.spec.sampling_list import Listed, listed
from jobs.spec.sections import Contradiction, Spec

AnySpec = TypeVar("AnySpec", bound=Spec)


@dataclass(frozen=True)
class Sampling:
    """One way to sample from a run: the weights of one training step, and settings in place of the spec's own."""

    step: int
    """Training step of the checkpoint."""
    changes: Changes = ()
    """Settings that replace those of the spec's `sample` section; () for none."""

    def __hash__(self) -> int:
        return hash((self.step, tuple((key, _hashable(value)) for key, value in self.changes)))


def _hashable(value: Any) -> Any:
    """Return what is equal for equal values of a spec, and has a hash: a value may be a list, or a section with lists."""
    if isinstance(value, BaseModel):
        return tuple(_hashable(inner) for _, inner in value)
    return tuple(map(_hashable, value)) if isinstance(value, (list, tuple)) else value


WEIGHTS_BY = ("ema_rate", "ema_sigma_rel")
"""Keys of `sample` that choose the weights of a training step."""


def main_sampling(spec: Spec) -> Sampling:
    """Return the sampling by the settings of `sample` itself."""
    return Sampling(spec.train.iterations)


def samplings(spec: Spec) -> list[Sampling]:
    """Return the main sampling, then those of `sample.at`, then those that `evaluate` needs; each once. A kind that draws no
    samples has none."""
    if not draws_samples(spec):
        return []
    return list(dict.fromkeys([main_sampling(spec), *_without_listed(spec), *(_of_listed(spec, each) for each in listed(spec))]))


def _without_listed(spec: Spec) -> list[Sampling]:
    last = spec.train.iterations
    steps = [last if step == "last" else step for step in spec.sample.at]
    return [*map(Sampling, steps),
            *(Sampling(last, _differing(spec, changes)) for changes in kind_of(spec).samplings(spec))]


def _of_listed(spec: Spec, each: Listed) -> Sampling:
    return Sampling(spec.train.iterations, _differing(spec, each.changes))


def listed_twice(spec: Spec) -> Iterator[tuple[str, str]]:
    """Yield the entries of evaluate.samplings that add no sampling: the dotted key, and a sentence."""
    if not draws_samples(spec):
        return
    places = {sampling: "evaluate.respacings" for sampling in _without_listed(spec)} | {main_sampling(spec): "the main sampling"}
    several = Counter(each.number for each in listed(spec))
    for each in listed(spec):
        sampling, key = _of_listed(spec, each), f"evaluate.samplings[{each.number}]"
        if places.get(sampling) == key:
            yield key, "has two values that sample alike, which count once"
        elif sampling in places:
            which = "one of its ways samples" if several[each.number] > 1 else "samples"
            yield key, f"{which} as {places[sampling]} does, and counts once"
        places.setdefault(sampling, key)


def listed_contradictions(spec: Spec) -> list[Contradiction]:
    """Return the contradictions that only samplings of evaluate.samplings have, each checked as if it were the main one."""
    if not listed(spec):
        return []
    # A metric is in order if any sampling can have it.
    alone = spec.model_copy(update={"evaluate": spec.evaluate.model_copy(update={"samplings": [], "metrics": []}),
                                    "sample": spec.sample.model_copy(update={"at": ["last"]})})  # of the last step alone
    kind, found = kind_of(spec), dict[Contradiction, None]()
    known = set(kind.contradictions(alone))
    for each in listed(spec):
        for key, message in kind.contradictions(with_changes(alone, each.changes)):
            if (key, message) not in known:
                section, *inside = place_of(key)
                found[each.key(tuple(inside) if section == "sample" else ()), message] = None
    return list(found)


def weights_of(spec: Spec, sampling: Sampling) -> tuple[Any, ...]:
    """Return what chooses the weights of `sampling`: samplings of one answer have the same weights."""
    sample = with_sampling(spec, sampling).sample
    return (sampling.step, *(getattr(sample, key) for key in WEIGHTS_BY))


def by_weights(spec: Spec) -> list[Sampling]:
    """Return the samplings in the order of work: those of the same weights together, and of the same guide among them; the last
    step first."""
    every, first = samplings(spec), dict[Any, int]()
    chosen = {sampling: (weights_of(spec, sampling), kind_of(spec).guide(with_sampling(spec, sampling))) for sampling in every}
    for number, sampling in enumerate(every):
        for one in chosen[sampling]:
            first.setdefault(one, number)
    return sorted(every, key=lambda sampling: (-sampling.step, *(first[one] for one in chosen[sampling])))


def steps_kept_for_good(spec: Spec) -> set[int]:
    """Return the training steps whose checkpoints are kept for good: the last one, those that are sampled from, and those that
    guide a sampling of this run."""
    guides = {guide.step for _, guide, _ in guided(spec) if guide.run is None and guide.step is not None}
    return {spec.train.iterations, *(sampling.step for sampling in samplings(spec)), *guides}


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


def guided(spec: AnySpec) -> Iterator[tuple[AnySpec, Guide, Callable[[str], str]]]:
    """Yield each way to sample `spec` that needs a guide: the spec with its settings, and the guide.

    The third is a function of a dotted key of `sample`: it returns the key of `spec` that says this setting.
    """
    if not draws_samples(spec):
        return
    kind = kind_of(spec)
    ways: list[tuple[AnySpec, Callable[[str], str]]] = [(spec, str)]
    ways += [(with_changes(spec, each.changes), partial(_key_of, each)) for each in listed(spec)]
    for own, place in ways:
        if guide := kind.guide(own):
            yield own, guide, place


def _key_of(each: Listed, key: str) -> str:
    return each.key(place_of(key)[1:])


def unguided(spec: AnySpec) -> AnySpec:
    """Return `spec` with a main sampling by its network alone."""
    return with_changes(spec, (("guidance", None),)) if "guidance" in type(spec.sample).model_fields else spec


def differing(spec: Spec, sampling: Sampling) -> dict[str, Any]:
    """Return the settings of `sample` that `sampling` has for itself, as plain values; {} for the main sampling."""
    return {key: value.model_dump(mode="json") if isinstance(value, BaseModel) else value for key, value in sampling.changes}


def sampling_facts(spec: Spec, sampling: Sampling) -> dict[str, Any]:
    """Return the facts about `sampling` in evaluation.json.

    The training step and the kind's own facts; `evaluations` of the network for one sample; and `differs`, the settings
    that are not the main sampling's.
    """
    own, kind = with_sampling(spec, sampling), kind_of(spec)
    return {"step": sampling.step, **kind.sampling_facts(own), "evaluations": kind.evaluations(own),
            "differs": differing(spec, sampling)}
