"""Spec files: from YAML to the runs of a study, with every complaint at its file and line."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from jobs.spec.keys import place_of, sections_in
from jobs.spec.kinds import KINDS, kind_named, kind_of
from jobs.spec.reading.complaints import FOREIGN, MISSING, validate
from jobs.spec.reading.location import with_location
from jobs.spec.reading.run_names import run_names
from jobs.spec.reading.sweep import Run, Study, SweepPoint, described, expand, repeated, with_point
from jobs.spec.reading.yaml_nodes import Entry, refuse
from jobs.spec.reading.yaml_tree import COMMAND_LINE, is_written, location_of, override, plain, read_file
from jobs.spec.references import reference_problems
from jobs.spec.samplings import listed_contradictions, listed_twice
from jobs.spec.sections import DEFAULT_KIND, Spec, SpecAsWritten


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
            # The sweep may set the missing keys, or the kind that has the sections which are foreign to the base.
            wrong += [complaint for complaint in validate(base)[1]
                      if complaint[1] != MISSING and not complaint[1].startswith(FOREIGN)]
            refuse([with_location(tree, None, complaint) for complaint in wrong])

    written, specs = _resolved(tree, base, points)
    differs = [described(point, spec) for point, spec in zip(points, written, strict=True)]
    if wrong := repeated(points, differs, specs):
        refuse([with_location(tree, None, complaint) for complaint in wrong])
    names = _names(points, differs)
    if problems := reference_problems(dict(zip(names, specs, strict=True))):
        lines = [with_location(tree, point, (place_of(key), f"{message}; in run {name}"))
                 for name, point in zip(names, points, strict=True) for key, message in problems.get(name, [])]
        refuse(list(dict.fromkeys(lines)))
    return Study(specs[0].name, Path(path), [Run(*each) for each in zip(names, differs, specs, strict=True)],
                 (*_inherited_sweep(tree, path, points), *_listed_twice(tree, points, specs), *_overruled_average(tree, specs)),
                 base)


def written_values(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return what the spec file, the files that it extends and `overrides` say, as plain values without any default."""
    return plain(override(read_file(Path(path)), overrides))


def _inherited_sweep(tree: Entry, path: str | Path, points: Sequence[SweepPoint]) -> Iterator[str]:
    """Say so where the sweep is not written in the file `path` itself, and where it overrules what `path` says."""
    own = f"{Path(path)}:"
    if "sweep" not in tree.value or (place := tree.value["sweep"].location).startswith(own):
        return
    yield (f"the sweep is inherited from {place}, which {path} extends; `sweep:` in {path} replaces it as a whole, and "
           "`sweep: null` drops it")
    for key in dict.fromkeys(key for point in points for key in point.choices):
        names = tuple(key.split("."))
        if is_written(tree, names) and (place := location_of(tree, names)).startswith(own):
            yield f"{place}: {key} has no effect, since the inherited sweep sets it"


def _overruled_average(tree: Entry, specs: Sequence[Spec]) -> Iterator[str]:
    """Say so where sample.ema_rate is written, and sample.ema_sigma_rel overrules it."""
    place = ("sample", "ema_rate")
    if is_written(tree, place) and any(None not in (spec.sample.ema_rate, spec.sample.ema_sigma_rel) for spec in specs):
        yield (f"{location_of(tree, place)}: sample.ema_rate has no effect where sample.ema_sigma_rel chooses the average; write "
               "`ema_sigma_rel: null` or `ema_rate: null`")


def _listed_twice(tree: Entry, points: Sequence[SweepPoint], specs: Sequence[Spec]) -> list[str]:
    """Return a sentence for each entry of evaluate.samplings that adds no sampling."""
    return list(dict.fromkeys(with_location(tree, point, (place_of(key), message))
                              for point, spec in zip(points, specs, strict=True) for key, message in listed_twice(spec)))


def _names(points: Sequence[SweepPoint], differs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the runs; `differs` is what each point sets."""
    in_names = [point.values_in_name(values) for point, values in zip(points, differs, strict=True)]
    return run_names(in_names, [point.name for point in points])


def _resolved(tree: Entry, base: dict[str, Any], points: Sequence[SweepPoint]) -> tuple[list[SpecAsWritten], list[Spec]]:
    """Return the specs of all points, as written and resolved. Raises UserError with the complaints about all of them."""
    as_written: list[SpecAsWritten] = []
    specs: list[Spec] = []
    complaints: dict[str, list[int]] = {}  # line -> numbers of the points that the line is about
    kinds = [_kind_of_point(base, point) for point in points]
    for number, point in enumerate(points):
        written, wrong = validate(with_point(_own_part(base, kinds[number], kinds), point))
        if written is not None:
            kind = kind_of(written)
            spec = kind.resolve(written)
            as_written.append(written)
            specs.append(spec)
            wrong = [(place_of(key), message) for key, message in [*kind.contradictions(spec), *listed_contradictions(spec)]]
        for complaint in wrong:
            complaints.setdefault(with_location(tree, point, complaint), []).append(number)
    if complaints:
        labels = _names(points, [point.values() for point in points])
        refuse([line if len(numbers) == len(points) else
                f"{line}; in run {labels[numbers[0]]}" + f" and {len(numbers) - 1} more" * (len(numbers) > 1)
                for line, numbers in complaints.items()])
    return as_written, specs


# A sweep over kinds

def _kind_of_point(base: dict[str, Any], point: SweepPoint) -> str | None:
    """Return the kind of model that the point has; None where the spec names no kind that there is."""
    name = point.choices["kind"].value if "kind" in point.choices else base.get("kind", DEFAULT_KIND)
    return name if isinstance(name, str) and name in KINDS else None


def _own_part(base: dict[str, Any], kind: str | None, swept: Sequence[str | None]) -> dict[str, Any]:
    """Return `base` without the sections and keys that only other kinds of the sweep have: each point takes its own."""
    others = [kind_named(other).written for other in dict.fromkeys(swept) if other not in (kind, None)]
    if kind is None or not others:
        return base
    return _without_foreign(base, [kind_named(kind).written], others)


def _without_foreign(values: dict[str, Any], own: Sequence[type[BaseModel]], others: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """Return `values` without the keys that the sections `others` have and the sections `own` lack, at any depth."""
    kept = {}
    for key, value in values.items():
        ours, theirs = _types_of(own, key), _types_of(others, key)
        if not ours and theirs:
            continue
        sections = [section for each in ours for section in sections_in(each)]
        foreign = [section for each in theirs for section in sections_in(each)]
        kept[key] = _without_foreign(value, sections, foreign) if isinstance(value, dict) and sections else value
    return kept


def _types_of(sections: Sequence[type[BaseModel]], key: str) -> list[Any]:
    """Return the types that the field `key` has in those of the sections that have this field."""
    return [section.model_fields[key].annotation for section in sections if key in section.model_fields]


# The command line

def _from_command_line(tree: Entry, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted keys that the command line sets, each with its setting there."""
    for key, entry in tree.value.items():
        if isinstance(entry.value, dict):
            yield from _from_command_line(entry, f"{prefix}{key}.")
        elif entry.location.startswith(COMMAND_LINE):
            yield prefix + key, entry.location
