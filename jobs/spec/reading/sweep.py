"""A sweep: which settings vary over the runs of a study.

    sweep:
      grid: {diffusion.loss: [simple, hybrid], train.lr: [1e-4, 2e-4]}           every combination
      zip:  {model.num_channels: [64, 128], model.num_heads: [2, 4]}             first with first, second with second
      list: [{train.seed: 0}, {name: wet, train.seed: 1, model.dropout: 0.1}]    point by point; a name becomes that of the run

Keys are dotted, of any depth. A key may name a whole section. A value may be null where null is allowed. Several ways together
multiply: every point of the grid with every one of zip and every one of list.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from jobs.spec.fields import is_name
from jobs.spec.keys import all_keys, merged, suggestion, types_at, value_at
from jobs.spec.kinds import KINDS, kind_named
from jobs.spec.reading.run_names import run_names
from jobs.spec.reading.yaml_tree import KeyPath
from jobs.spec.sections import Spec, SpecAsWritten

WAYS = ("grid", "zip", "list")
MAX_RUNS = 100_000
MAX_SWEPT = 1000  # keys that a sweep may set

Complaint = tuple[KeyPath, str]
"""A place in the spec file, and what is wrong there."""


@dataclass(frozen=True)
class Choice:
    """One value of a swept key; `path` leads to the value through the spec file, from `sweep` on."""

    value: Any
    path: KeyPath


@dataclass(frozen=True)
class SweepPoint:
    """The swept settings of one run."""

    choices: dict[str, Choice] = field(default_factory=dict)
    """By dotted key."""
    name: str | None = None
    """The name that the spec gives to the run; keys of `list` are then left out of the run's name."""

    def joined(self, other: "SweepPoint") -> "SweepPoint":
        """Return the point that sets what both set; they have no key in common."""
        return SweepPoint(self.choices | other.choices, self.name or other.name)

    def values(self) -> dict[str, Any]:
        """Return the values by dotted key, as the spec file has them."""
        return {key: choice.value for key, choice in self.choices.items()}

    def values_in_name(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries of `values` (by key) that are part of the run's name."""
        return {key: values[key] for key, choice in self.choices.items() if self.name is None or choice.path[1] != "list"}


@dataclass(frozen=True)
class Run:
    """One point of a study."""

    name: str
    differs: dict[str, Any]
    """The swept settings by dotted key; empty without a sweep."""
    spec: Spec
    """Resolved."""


@dataclass(frozen=True)
class Study:
    """All runs of the spec file `source`."""

    name: str
    source: Path
    runs: list[Run]
    notes: tuple[str, ...] = ()
    """What a user should know about the spec, a sentence each."""
    written: Mapping[str, Any] = field(default_factory=dict)
    """The plain values of the spec file and the command line, without defaults and without the sweep."""

    def written_of(self, run: Run) -> dict[str, Any]:
        """Return the plain values that are written for `run`, its point of the sweep included; no default is among them."""
        return _with_settings(self.written, run.differs)


def expand(sweep: Any, fixed: Mapping[str, str]) -> tuple[list[SweepPoint], list[Complaint]]:
    """Return the points of the `sweep` section (plain values), or no points and the complaints.

    The key that is written last varies fastest; list varies faster than zip, and zip faster than grid. `fixed`: dotted keys
    that the command line sets and that cannot be swept, each with its setting. Values are not checked here.
    """
    if not isinstance(sweep, dict) or not sweep:
        return [], [(("sweep",), f"must be a mapping with some of {', '.join(WAYS)}")]
    complaints: list[Complaint] = [(("sweep", way), f"unknown kind of sweep; allowed: {', '.join(WAYS)}")
                                   for way in sweep if way not in WAYS]
    factors: list[list[SweepPoint]] = []
    for way, read in (("grid", _grid), ("zip", _zip), ("list", _list)):
        if way in sweep:
            found, wrong = read(sweep[way], ("sweep", way))
            factors += found
            complaints += wrong
    complaints += _wrong_keys(factors, fixed)
    if not complaints and (count := prod(map(len, factors))) > MAX_RUNS:
        complaints.append((("sweep",), f"makes {count} runs; at most {MAX_RUNS} are possible"))
    if complaints:
        return [], complaints
    points = [SweepPoint()]
    for factor in factors:
        points = [one.joined(other) for one, other in product(points, factor)]
    return points, []


def _grid(content: Any, path: KeyPath) -> tuple[list[list[SweepPoint]], list[Complaint]]:
    columns, complaints = _columns(content, path)
    return [[SweepPoint({key: choice}) for choice in choices] for key, choices in columns.items()], complaints


def _zip(content: Any, path: KeyPath) -> tuple[list[list[SweepPoint]], list[Complaint]]:
    columns, complaints = _columns(content, path)
    lengths = {key: len(choices) for key, choices in columns.items()}
    if len(set(lengths.values())) > 1:
        named = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        complaints.append((path, f"the lists must be equally long, but {named}"))
    return [[SweepPoint(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=False)]], complaints


def _list(content: Any, path: KeyPath) -> tuple[list[list[SweepPoint]], list[Complaint]]:
    if not isinstance(content, list) or not content:
        return [], [(path, "must be a list of mappings, such as [{train.lr: 1e-4}, {train.lr: 2e-4}]")]
    complaints: list[Complaint] = []
    points, names = [], set()
    for index, point in enumerate(content):
        if not isinstance(point, dict):
            complaints.append((path + (index,), "must be a mapping of dotted keys to values, such as {train.lr: 1e-4}"))
            continue
        name = point.get("name")
        if "name" in point and not is_name(name):
            complaints.append((path + (index, "name"), "use 1 to 64 letters, digits, '.', '_' and '-', a letter or digit first"))
        elif name is not None and name.lower() in names:
            complaints.append((path + (index, "name"), f"two points are named {name}"))
        elif name is not None:
            names.add(name.lower())
        choices = {key: Choice(value, path + (index, key)) for key, value in point.items() if key != "name"}
        points.append(SweepPoint(choices, name))
    return [points], complaints


def _columns(content: Any, path: KeyPath) -> tuple[dict[str, list[Choice]], list[Complaint]]:
    if not isinstance(content, dict) or not content:
        return {}, [(path, "must be a mapping of dotted keys to lists, such as {train.lr: [1e-4, 2e-4]}")]
    complaints: list[Complaint] = [(path + (key,), "must be a list with at least one value")
                                   for key, values in content.items() if not isinstance(values, list) or not values]
    columns = {key: [Choice(value, path + (key, index)) for index, value in enumerate(values)]
               for key, values in content.items() if isinstance(values, list) and values}
    return columns, complaints


def _wrong_keys(factors: Sequence[Sequence[SweepPoint]], fixed: Mapping[str, str]) -> list[Complaint]:
    complaints: list[Complaint] = []
    swept: dict[str, str] = {}  # dotted key -> the way that sweeps it
    for factor in factors:
        firsts: dict[str, Choice] = {}
        for point in factor:
            for key, choice in point.choices.items():
                firsts.setdefault(key, choice)
        if len(swept) + len(firsts) > MAX_SWEPT:
            return [(("sweep",), f"sets more than {MAX_SWEPT:,} keys")]
        for key, choice in firsts.items():
            location = choice.path if choice.path[1] == "list" else choice.path[:-1]
            earlier = [*swept, *list(firsts)[:list(firsts).index(key)]]
            overlapping = next((other for other in earlier if other != key and _inside(key, other)), None)
            if message := _wrong_key(key, fixed):
                complaints.append((location, message))
            elif key in swept:
                complaints.append((location, f"already swept under {swept[key]}"))
            elif overlapping:
                complaints.append((location, f"overlaps with {overlapping}, which is swept too"))
        swept |= {key: str(choice.path[1]) for key, choice in firsts.items()}
    return complaints


def _inside(key: str, other: str) -> bool:
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _wrong_key(key: str, fixed: Mapping[str, str]) -> str | None:
    section = key.split(".")[0]
    if key == "name" or section == "resources":
        return "cannot be swept: it does not change what is computed"
    setter = next((place for other, place in fixed.items() if _inside(key, other)), None)
    if setter is not None:
        return f"is swept here, but also set by `{setter}`; drop one of the two"
    if any(types_at(kind_named(name).written, key.split(".")) for name in KINDS):
        return None
    siblings = [known for known in all_keys() if known.startswith(section + ".")]
    return f"unknown key; {suggestion(key, siblings or ['section.key, such as train.lr'])}"


def with_point(base: dict[str, Any], point: SweepPoint) -> dict[str, Any]:
    """Return the plain spec `base` with the values of `point` in it; a section's value is laid over the section of `base`."""
    return _with_settings(base, {key: choice.value for key, choice in point.choices.items()})


def _with_settings(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain `values` of a spec with `settings`, by dotted key, laid over them."""
    found = dict(values)
    for key, value in settings.items():
        for name in reversed(key.split(".")):
            value = {name: value}
        found = merged(found, value)
    return found


def repeated(points: Sequence[SweepPoint], differs: Sequence[Mapping[str, Any]], specs: Sequence[Spec]) -> list[Complaint]:
    """Return a complaint for points that make equal runs. `differs`: what each point sets; `specs`: their resolved specs."""
    keys = list(dict.fromkeys(key for point in points for key in point.choices))
    same: dict[str, list[int]] = {}
    for number, spec in enumerate(specs):
        same.setdefault(json.dumps([value_at(spec, key) for key in keys]), []).append(number)
    complaints: list[Complaint] = []
    for numbers in same.values():
        if len(numbers) > 1:
            path = next((choice.path for choice in points[numbers[1]].choices.values()), ("sweep",))
            names = dict.fromkeys(_name(points[number], differs[number]) for number in numbers[:3])
            complaints.append((path, f"{len(numbers)} points make the same run: {', '.join(names)}"))
    return complaints


def _name(point: SweepPoint, values: Mapping[str, Any]) -> str:
    """Return the name of a run as if there were no other run."""
    return run_names([point.values_in_name(values)], [point.name])[0]


def described(point: SweepPoint, spec: SpecAsWritten) -> dict[str, Any]:
    """Return the values that `point` sets, as `spec` has them: 1.0e-4 for 1e-4, and of a section the keys that are written."""
    return {key: _as_read(choice.value, value_at(spec, key)) for key, choice in point.choices.items()}


def _as_read(written: Any, read: Any) -> Any:
    """Return those keys of the section `read` that are `written`; any other value as it is read."""
    if not isinstance(written, dict) or not isinstance(read, dict):
        return read
    return {key: _as_read(value, read[key]) for key, value in written.items()}
