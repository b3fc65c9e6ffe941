"""Runs that a spec names: `run: NAME` is a run of the same study, `run: runs/STUDY/NAME` one of another study.

A kind gives such a key the type RunName in a section of its own. The stage of that section (`sample` or `evaluate`; `train` for
a section of no stage) waits until the named run has done the stage that the type names.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel

from jobs.spec.fields import File, is_name
from jobs.spec.keys import place_of, sections_in
from jobs.spec.kinds import draws_samples, given_kind, given_of, kind_of, stages_of
from jobs.spec.sampling_list import listed
from jobs.spec.samplings import guided, with_changes
from jobs.spec.sections import Contradiction, Spec
from jobs.spec.stages import STAGES

SAMPLE = "sample"
"""The stage and the section of the same name."""


@dataclass(frozen=True)
class NamesRun:
    """Marks a key that names a run, and the stage that the run must have done."""

    stage: str


def _run_name(value: str) -> str:
    if "/" in value:
        if len(Path(value).parts) < 2 or ".." in Path(value).parts:
            raise ValueError("write the folder of a run, such as runs/STUDY/NAME")
    elif not is_run_name(value):
        raise ValueError("write the name of a run of this study, or the folder of another one, such as runs/STUDY/NAME")
    return value


def is_run_name(value: str) -> bool:
    """Return whether `value` may be the name of a run's folder, such as loss=hybrid,lr=0.0001."""
    return all(is_name(part) for part in value.replace("=", "-").replace(",", "-").replace("+", "-").split("/"))


TrainedRun = Annotated[File, AfterValidator(_run_name), NamesRun("train")]
"""A run whose trained network is used."""
SampledRun = Annotated[File, AfterValidator(_run_name), NamesRun("sample")]
"""A run whose samples are used."""


def is_in_study(run: str) -> bool:
    """Return whether a key that says `run` names a run of the same study, and not the folder of another one."""
    return "/" not in run


@dataclass(frozen=True)
class Reference:
    """`stage` of a run waits until the run `run` has done the stage `needs`."""

    key: str
    run: str
    stage: str
    needs: str

    @property
    def in_study(self) -> bool:
        """Whether the run is one of the same study."""
        return is_in_study(self.run)


def references(spec: Spec) -> list[Reference]:
    """Return the runs that `spec` names, and that its further samplings name; each once for a stage that waits."""
    if not naming_fields(type(spec)):  # large sweeps ask for each of their runs
        return []
    named = dict.fromkeys((key, run, key.split(".")[0] if key.split(".")[0] in STAGES else STAGES[0], needs)
                          for key, run, needs in _named(spec, ""))
    known = {(run, needs) for _, run, stage, needs in named if stage == SAMPLE}
    for each in listed(spec):  # what only these samplings need
        for key, run, needs in _named(with_changes(spec, each.changes).sample, ""):
            if (run, needs) not in known:
                known.add((run, needs))
                named[each.key(place_of(key)), run, SAMPLE, needs] = None
    return [Reference(*each) for each in named]


@cache
def naming_fields(section: type[BaseModel]) -> frozenset[str]:
    """Return the names of the fields, at any depth below `section`, that may name a run."""
    return frozenset(_own_naming_fields(section)).union(
        *(naming_fields(inner) for field in section.model_fields.values() for inner in sections_in(field.annotation)))


@cache
def _own_naming_fields(section: type[BaseModel]) -> dict[str, list[str]]:
    """Return the fields of `section` itself that may name a run, with the stages that they wait for."""
    found = {name: _stages(field.annotation, *field.metadata) for name, field in section.model_fields.items()}
    return {name: stages for name, stages in found.items() if stages}


def _named(section: BaseModel, prefix: str) -> Iterator[tuple[str, str, str]]:
    own = _own_naming_fields(type(section))
    for name in type(section).model_fields:
        value: Any = getattr(section, name)
        if isinstance(value, BaseModel):
            if naming_fields(type(value)):
                yield from _named(value, f"{prefix}{name}.")
        elif value is not None and name in own:
            yield from ((prefix + name, value, stage) for stage in own[name])


def _stages(annotation: Any, *metadata: Any) -> list[str]:
    """Return the stage that a field of this type waits for; a field may also allow null."""
    return [mark.stage for mark in metadata if isinstance(mark, NamesRun)] + [
        stage for inner in get_args(annotation) for stage in _stages(inner, inner)]


def reference_problems(specs: Mapping[str, Spec]) -> dict[str, list[Contradiction]]:
    """Return, by run, the mistakes in the runs that the `specs` of a study name: unknown runs, unfit guides, and circles.

    `specs`: by the name of the run.
    """
    found: dict[str, list[Contradiction]] = {}
    named = {run: references(spec) for run, spec in specs.items()}
    if not any(named.values()):
        return found
    for run, key, message in [*_unknown_runs(specs, named), *_unfit_runs(specs, named)]:
        found.setdefault(run, []).append((key, message))
    waits = {(run, stage): [(run, before) for before in STAGES[:STAGES.index(stage)]]
             + [(each.run, each.needs) for each in ours if each.stage == stage]
             for run, ours in named.items() for stage in STAGES}
    try:
        TopologicalSorter(waits).prepare()
    except CycleError as error:
        circle = [run for run, _ in error.args[1]]
        run = next(run for run in circle if named.get(run))
        words = " -> ".join(name for index, name in enumerate(circle) if index == 0 or name != circle[index - 1])
        found.setdefault(run, []).append((named[run][0].key, f"runs wait for each other in a circle: {words}"))
    return found


def _unknown_runs(specs: Mapping[str, Spec], named: Mapping[str, list[Reference]]) -> Iterator[tuple[str, str, str]]:
    """Yield the named runs that are none of the study, or lack the stage that is waited for: run, key and message."""
    for run, ours in named.items():
        for reference in ours:
            if not reference.in_study:
                continue
            if reference.run not in specs:
                yield run, reference.key, _unknown(reference.run, list(specs))
            elif reference.needs not in stages_of(other := specs[reference.run]):
                lacks = f"run {reference.run} is of kind {other.kind}, which has no stage {reference.needs}"
                yield run, reference.key, lacks


def _unfit_runs(specs: Mapping[str, Spec], named: Mapping[str, list[Reference]]) -> Iterator[tuple[str, str, str]]:
    """Yield the named runs of the study that cannot guide, or whose samples do not fit: run, key and message."""
    for run, spec in specs.items():
        if not named[run]:
            continue
        for own, guide, place in guided(spec):
            if guide.run is not None and guide.run in specs:
                for key, message in kind_of(own).guide_problems(own, specs[guide.run]):
                    yield run, place(key), message
        if (given := given_of(spec)) and given.run is not None and given.run in specs:
            yield from ((run, key, message) for key, message in given_problems(spec, specs[given.run]))


def given_problems(spec: Spec, other: Spec) -> list[Contradiction]:
    """Return why the samples of the run that `spec` makes its own of, with the spec `other`, do not fit."""
    kind = given_kind(spec)
    if kind is None or not draws_samples(other):  # that it draws none is said already
        return []
    given, data = kind.given(spec), other.data
    found = kind.given_problems(spec, data.image_size, data.channels, data.classes, other.sample.num_samples)
    return [(given.key, f"{given.run} {problem}") for problem in found]


def _unknown(name: str, runs: list[str]) -> str:
    near = get_close_matches(name, runs, n=1)
    there = f"did you mean {near[0]}?" if near else f"its runs are {', '.join(runs[:5])}{', ...' if len(runs) > 5 else ''}"
    return f"this study has no run {name}; {there}"
