"""Spec files: from YAML to the runs of a study, with every complaint at its file and line."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from jobs.spec.complaints import MISSING, validate
from jobs.spec.keys import sections_in
from jobs.spec.kinds import KINDS, kind_named, kind_of
from jobs.spec.location import refuse, with_location
from jobs.spec.references import reference_problems
from jobs.spec.run_names import run_names
from jobs.spec.sections import Spec, SpecAsWritten
from jobs.spec.sweep import Run, Study, SweepPoint, described, expand, repeated, with_point
from jobs.spec.yaml_tree import COMMAND_LINE, Entry, override, plain, read_file


def load(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Return all runs of the spec file `path`, each with its resolved spec.

    `overrides` are settings such as "train.lr=3e-4": a dotted key, and a value in YAML. Raises UserError with
    every complaint, one per line: `file:line: key: what is wrong`.
    """
    tree = override(read_file(Path(path)), overrides)
    base = plain(tree)
    points = [SweepPoint()]
    if "sweep" in tree.value:
        points, wrong = expand(base.pop("sweep"), dict(_from_command_line(tree)))
        if wrong:
            # A field that only the sweep gives is not missing.
            wrong += [complaint for complaint in validate(base)[1] if complaint[1] != MISSING]
            refuse([with_location(tree, None, complaint) for complaint in wrong])

    written, specs = _resolved(tree, base, points)
    differs = [described(point, spec) for point, spec in zip(points, written)]
    if wrong := repeated(points, differs, specs):
        refuse([with_location(tree, None, complaint) for complaint in wrong])
    names = run_names([point.values_in_name(values) for point, values in zip(points, differs)], [point.name for point in points])
    problems = reference_problems(dict(zip(names, specs)))
    if problems:
        lines = [with_location(tree, point, (tuple(key.split(".")), f"{message}; in run {name}"))
                 for name, point in zip(names, points) for key, message in problems.get(name, [])]
        refuse(list(dict.fromkeys(lines)))
    return Study(specs[0].name, Path(path), [Run(*each) for each in zip(names, differs, specs)])


def _resolved(tree: Entry, base: dict[str, Any], points: Sequence[SweepPoint]) -> tuple[list[SpecAsWritten], list[Spec]]:
    """Return the specs of all points, as written and resolved. Raises UserError with the complaints about all of them."""
    as_written: list[SpecAsWritten] = []
    specs: list[Spec] = []
    complaints: dict[str, list[int]] = {}  # line -> numbers of the points that the line is about
    swept = _kinds(base, points)
    for number, point in enumerate(points):
        written, wrong = validate(with_point(_own_part(base, point, swept), point))
        if written is not None:
            kind = kind_of(written)
            spec = kind.resolve(written)
            as_written.append(written)
            specs.append(spec)
            wrong = [(tuple(key.split(".")), message) for key, message in kind.contradictions(spec)]
        for complaint in wrong:
            complaints.setdefault(with_location(tree, point, complaint), []).append(number)
    if complaints:
        labels = run_names([point.values_in_name(point.values()) for point in points], [point.name for point in points])
        refuse([line if len(numbers) == len(points) else
                f"{line}; in run {labels[numbers[0]]}" + f" and {len(numbers) - 1} more" * (len(numbers) > 1)
                for line, numbers in complaints.items()])
    return as_written, specs


# A sweep over kinds

def _kinds(base: dict[str, Any], points: Sequence[SweepPoint]) -> set[str]:
    """Return the kinds of the points."""
    default = base.get("kind", SpecAsWritten.model_fields["kind"].default)
    named = [point.choices["kind"].value if "kind" in point.choices else default for point in points]
    return {name for name in named if isinstance(name, str) and name in KINDS}


def _own_part(base: dict[str, Any], point: SweepPoint, swept: set[str]) -> dict[str, Any]:
    """Return `base` without the sections and keys that only other kinds of the sweep have: each point takes its own."""
    name = point.choices["kind"].value if "kind" in point.choices else base.get("kind")
    if len(swept) < 2 or not isinstance(name, str) or name not in swept:
        return base
    return _without_foreign(base, [kind_named(name).written], [kind_named(other).written for other in swept - {name}])


def _without_foreign(values: dict[str, Any], own: Sequence[type[BaseModel]], others: Sequence[type[BaseModel]]) -> dict[str, Any]:
    kept = {}
    for key, value in values.items():
        ours, theirs = _below(own, key), _below(others, key)
        if not ours and theirs:
            continue
        sections = [section for each in ours for section in sections_in(each)]
        foreign = [section for each in theirs for section in sections_in(each)]
        kept[key] = _without_foreign(value, sections, foreign) if isinstance(value, dict) and sections else value
    return kept


def _below(sections: Sequence[type[BaseModel]], key: str) -> list[Any]:
    return [section.model_fields[key].annotation for section in sections if key in section.model_fields]


def _from_command_line(tree: Entry, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted keys that the command line sets, each with the words there."""
    for key, entry in tree.value.items():
        if entry.location.startswith(COMMAND_LINE):
            yield prefix + key, entry.location
        elif isinstance(entry.value, dict):
            yield from _from_command_line(entry, f"{prefix}{key}.")
