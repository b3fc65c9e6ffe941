"""A sweep: which settings vary over the runs of a study, and what each run is called.

    sweep:
      grid: {diffusion.loss: [simple, hybrid], train.lr: [1e-4, 2e-4]}           every combination
      zip:  {model.num_channels: [64, 128], model.num_heads: [2, 4]}             first with first, second with second
      list: [{train.seed: 0}, {train.seed: 1, model.dropout: 0.1}]               point by point

Several kinds together multiply: every point of the grid with every one of zip and every one of list.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

from pydantic import BaseModel

from jobs.spec.sections import Spec
from jobs.spec.yaml_tree import KeyPath
from jobs.storage.files import sha256_of_json

KINDS = ("grid", "zip", "list")
MAX_RUNS = 100_000
MAX_NAME = 120  # characters; file systems end at 255 bytes, and tools add suffixes

Complaint = tuple[KeyPath, str]
"""Where in the spec file, and what is wrong there."""


@dataclass(frozen=True)
class Choice:
    """One value of a swept key; `path` leads to it through the spec file, from `sweep` on."""

    value: Any
    path: KeyPath


Point = dict[str, Choice]
"""What one run sets, by dotted key."""


@dataclass(frozen=True)
class Run:
    """One point of a study: its name, what it sets (dotted key -> value; empty without a sweep), its resolved spec."""

    name: str
    differs: dict[str, Any]
    spec: Spec


@dataclass(frozen=True)
class Study:
    """All runs of the spec file `source`."""

    name: str
    source: Path
    runs: list[Run]


def _leaves(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _leaves(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


KEYS = _leaves(Spec)
"""Every field of a spec, dotted, in the schema's order."""


def value_at(spec: Spec, key: str) -> Any:
    """The value of the dotted `key`."""
    return reduce(getattr, key.split("."), spec)


def suggestion(key: str, allowed: Iterable[str]) -> str:
    """How the message about an unknown key goes on: the key that was probably meant, or all `allowed` ones."""
    if key in KEYS:
        section, _, field = key.rpartition(".")
        return f"write {field} inside the section {section}"
    same_word = [known for known in KEYS if known.endswith("." + key.rpartition(".")[2])]
    near = same_word or get_close_matches(key, allowed, n=1)
    if near:
        return f"did you mean {' or '.join(f'`{known}`' for known in near)}?"
    return f"allowed: {', '.join(allowed)}"


def expand(sweep: Any, fixed: Mapping[str, str]) -> tuple[list[Point], list[Complaint]]:
    """The points of the `sweep` section (plain values). What is written last varies fastest, and list faster than zip
    faster than grid.

    `fixed` are the keys that cannot be swept because something else sets them: dotted key -> what does.
    Values are not checked here. Where there are complaints, the points are empty.
    """
    if not isinstance(sweep, dict) or not sweep:
        return [], [(("sweep",), f"must be a mapping with some of {', '.join(KINDS)}")]
    complaints = [(("sweep", kind), f"unknown kind of sweep; allowed: {', '.join(KINDS)}")
                  for kind in sweep if kind not in KINDS]
    factors: list[list[Point]] = []
    for kind, read in (("grid", _grid), ("zip", _zip), ("list", _list)):
        if kind in sweep:
            found, wrong = read(sweep[kind], ("sweep", kind))
            factors += found
            complaints += wrong
    complaints += _wrong_keys(factors, fixed)
    if not complaints and (count := prod(map(len, factors))) > MAX_RUNS:
        complaints.append((("sweep",), f"makes {count} runs; at most {MAX_RUNS} are possible"))
    if complaints:
        return [], complaints
    return [{key: choice for part in parts for key, choice in part.items()} for parts in product(*factors)], []


def _grid(content: Any, path: KeyPath) -> tuple[list[list[Point]], list[Complaint]]:
    columns, complaints = _columns(content, path)
    return [[{key: choice} for choice in choices] for key, choices in columns.items()], complaints


def _zip(content: Any, path: KeyPath) -> tuple[list[list[Point]], list[Complaint]]:
    columns, complaints = _columns(content, path)
    lengths = {key: len(choices) for key, choices in columns.items()}
    if len(set(lengths.values())) > 1:
        named = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        complaints.append((path, f"the lists must be equally long, but {named}"))
    return [[dict(zip(columns, row)) for row in zip(*columns.values())]], complaints


def _list(content: Any, path: KeyPath) -> tuple[list[list[Point]], list[Complaint]]:
    if not isinstance(content, list) or not content:
        return [], [(path, "must be a list of mappings, such as [{train.lr: 1e-4}, {train.lr: 2e-4}]")]
    complaints = [(path + (index,), "must be a mapping of dotted keys to values, such as {train.lr: 1e-4}")
                  for index, point in enumerate(content) if not isinstance(point, dict)]
    points = [{key: Choice(value, path + (index, key)) for key, value in point.items()}
              for index, point in enumerate(content) if isinstance(point, dict)]
    return [points], complaints


def _columns(content: Any, path: KeyPath) -> tuple[dict[str, list[Choice]], list[Complaint]]:
    if not isinstance(content, dict) or not content:
        return {}, [(path, "must be a mapping of dotted keys to lists, such as {train.lr: [1e-4, 2e-4]}")]
    complaints = [(path + (key,), "must be a list with at least one value")
                  for key, values in content.items() if not isinstance(values, list) or not values]
    columns = {key: [Choice(value, path + (key, index)) for index, value in enumerate(values)]
               for key, values in content.items() if isinstance(values, list) and values}
    return columns, complaints


def _wrong_keys(factors: list[list[Point]], fixed: Mapping[str, str]) -> list[Complaint]:
    complaints: list[Complaint] = []
    swept: dict[str, str] = {}  # dotted key -> the kind that sweeps it
    for factor in factors:
        firsts: dict[str, Choice] = {}
        for point in factor:
            for key, choice in point.items():
                firsts.setdefault(key, choice)
        for key, choice in firsts.items():
            kind = choice.path[1]
            place = choice.path[:-1] if kind != "list" else choice.path
            if message := _wrong_key(key, fixed):
                complaints.append((place, message))
            elif key in swept:
                complaints.append((place, f"already swept under {swept[key]}"))
        swept |= {key: choice.path[1] for key, choice in firsts.items()}
    return complaints


def _wrong_key(key: str, fixed: Mapping[str, str]) -> str | None:
    if key == "name" or key.split(".")[0] == "resources":
        return "cannot be swept: it does not change what is computed"
    if key in fixed:
        return f"is swept here, but also set by `{fixed[key]}`; drop one of the two"
    if key in KEYS:
        return None
    if any(known.startswith(key + ".") for known in KEYS):
        return f"is a section; sweep its keys: {', '.join(known for known in KEYS if known.startswith(key + '.'))}"
    section = key.partition(".")[0]
    siblings = [known for known in KEYS if known.startswith(section + ".")]
    return f"unknown key; {suggestion(key, siblings or ['section.key, such as train.lr'])}"


def with_point(base: dict[str, Any], point: Point) -> dict[str, Any]:
    """The plain spec `base` with the values of `point` in it."""
    values = dict(base)
    for key, choice in point.items():
        section, field = key.split(".")
        if isinstance(inside := values.get(section, {}), dict):
            values[section] = inside | {field: choice.value}
    return values


def repeated(points: Sequence[Point], differs: Sequence[Mapping[str, Any]], specs: Sequence[Spec]) -> list[Complaint]:
    """Points that make the same run; `specs` are theirs, resolved, `differs` what each sets (dotted key -> value)."""
    keys = list(dict.fromkeys(key for point in points for key in point))
    same: dict[str, list[int]] = {}
    for number, spec in enumerate(specs):
        same.setdefault(json.dumps([value_at(spec, key) for key in keys]), []).append(number)
    complaints: list[Complaint] = []
    for numbers in same.values():
        if len(numbers) > 1:
            path = next((choice.path for choice in points[numbers[1]].values()), ("sweep",))
            names = dict.fromkeys(run_names([differs[number]])[0] for number in numbers[:3])
            complaints.append((path, f"{len(numbers)} points make the same run: {', '.join(names)}"))
    return complaints


def run_names(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each point (dotted key -> value), such as `noise_schedule=cosine,loss=hybrid`; `run` for an empty one.

    Names are unique even where case does not count, at most MAX_NAME long, and made of letters, digits and
    . _ + - = , only. A name depends on its own point and on which keys are swept, not on the other points; only
    where two would be the same do both get a hash of their point.
    """
    short = _short_keys(list(dict.fromkeys(key for point in points for key in point)))
    names = [",".join(f"{short[key]}={_in_name(value)}" for key, value in point.items()) or "run" for point in points]
    seen = Counter(name.lower() for name in names)
    return [_hashed(name, point) if len(name) > MAX_NAME or seen[name.lower()] > 1 else name
            for name, point in zip(names, points)]


def _short_keys(keys: list[str]) -> dict[str, str]:
    """The shortest dotted end of each key that is the end of no other."""
    endings = {key: [key.split(".", start)[-1] for start in range(key.count("."), -1, -1)] for key in keys}
    count = Counter(ending for of_key in endings.values() for ending in of_key)
    return {key: next((ending for ending in endings[key] if count[ending] == 1), key) for key in keys}


def _in_name(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "-".join(map(_in_name, value)) or "empty"
    return re.sub(r"[^A-Za-z0-9._+-]", "-", str(value)) or "empty"


def _hashed(name: str, point: Mapping[str, Any]) -> str:
    digest = sha256_of_json(dict(point))[:10]
    # After a comma every other name has a key with "=", so that no plain name equals a hashed one.
    return f"{name[:MAX_NAME - 1 - len(digest)]},{digest}"
