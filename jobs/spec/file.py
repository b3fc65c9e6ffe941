"""Spec files: YAML in, with every complaint at its file and line; resolved specs out."""

import json
import re
from pathlib import Path
from typing import Any, Iterator, Mapping, NoReturn, Sequence, get_args

from pydantic import BaseModel, ValidationError

from jobs.errors import UserError
from jobs.spec.sections import Spec, contradictions, resolve
from jobs.spec.sweep import KEYS, Complaint, Point, Run, Study, expand, repeated, run_names, suggestion, value_at, with_point
from jobs.spec.yaml_tree import COMMAND_LINE, Entry, KeyPath, override, place_of, plain, read_tree

MAX_COMPLAINTS = 50


# From a spec file to the runs of a study

def load(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """All runs of the spec file `path`, each with its resolved spec.

    `overrides` are settings such as "train.lr=3e-4": a dotted key, and a value in YAML. Raises UserError with
    every complaint, one per line: `file:line: key: what is wrong`.
    """
    tree = override(read_tree(Path(path)), overrides)
    base = plain(tree)
    points: list[Point] = [{}]
    if "sweep" in tree.value:
        points, wrong = expand(base.pop("sweep"), _from_command_line(tree))
        if wrong:
            # A field that only the sweep gives is not missing.
            wrong += [complaint for complaint in _validate(base)[1] if complaint[1] != MISSING]
            _refuse([_line(tree, {}, complaint) for complaint in wrong])

    specs: list[Spec] = []
    complaints: dict[str, list[int]] = {}  # line -> numbers of the points that it is about
    for number, point in enumerate(points):
        spec, wrong = _validate(with_point(base, point))
        if spec is not None:
            specs.append(spec)
            wrong = [(tuple(key.split(".")), message) for key, message in contradictions(resolve(spec))]
        for complaint in wrong:
            complaints.setdefault(_line(tree, point, complaint), []).append(number)
    if complaints:
        labels = run_names([{key: choice.value for key, choice in point.items()} for point in points])
        _refuse([line if len(numbers) == len(points) else
                 f"{line}; in run {labels[numbers[0]]}" + f" and {len(numbers) - 1} more" * (len(numbers) > 1)
                 for line, numbers in complaints.items()])

    differs = [{key: value_at(spec, key) for key in point} for spec, point in zip(specs, points)]
    specs = [resolve(spec) for spec in specs]
    if wrong := repeated(points, differs, specs):
        _refuse([_line(tree, {}, complaint) for complaint in wrong])
    runs = [Run(name, *rest) for name, *rest in zip(run_names(differs), differs, specs)]
    return Study(specs[0].name, Path(path), runs)


def _from_command_line(tree: Entry) -> dict[str, str]:
    return {f"{section}.{field}": entry.place
            for section, inside in tree.value.items() if isinstance(inside.value, dict)
            for field, entry in inside.value.items() if entry.place.startswith(COMMAND_LINE)}


def _line(tree: Entry, point: Point, complaint: Complaint) -> str:
    path, message = complaint
    choice = point.get(".".join(map(str, path[:2])))
    place = place_of(tree, choice.path + path[2:] if choice else path)
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    return f"{place}: {key}: {message}"


def _refuse(lines: list[str]) -> NoReturn:
    more = [f"... and {len(lines) - MAX_COMPLAINTS} more"] if len(lines) > MAX_COMPLAINTS else []
    raise UserError("\n".join(lines[:MAX_COMPLAINTS] + more))


# The schema's complaints in plain words

MISSING = "required, but not given"
_WORDS = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list, such as [1, 2]",
    "literal_error": "must be {expected}",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "value_error": "{error}",
}


def _validate(values: Any) -> tuple[Spec | None, list[Complaint]]:
    try:
        return Spec.model_validate(values), []
    except ValidationError as error:
        return None, [(item["loc"], _explain(item)) for item in error.errors(include_url=False)]


def _explain(error: Mapping[str, Any]) -> str:
    kind, path = error["type"], error["loc"]
    if kind == "extra_forbidden":
        allowed = [*_type_at(path[:-1]).model_fields, *(["extends", "sweep"] if len(path) == 1 else [])]
        return f"unknown key; {suggestion(path[-1], allowed)}"
    if kind == "missing":
        return MISSING
    if kind == "model_type":
        words = f"must be a mapping with keys among {', '.join(_type_at(path).model_fields)}"
    else:
        words = _WORDS[kind].format(**error.get("ctx", {})) if kind in _WORDS else error["msg"]
    if kind.endswith("_type") and not isinstance(path[-1], int) and type(None) in get_args(_type_at(path)):
        words += " or null"
    got = _yaml_text(error["input"])
    return f"{words} (got {got if len(got) <= 60 else got[:57] + '...'})"


def _type_at(path: KeyPath) -> Any:
    """The type that the schema gives to `path`."""
    model: Any = Spec
    for key in path:
        model = model.model_fields[key].annotation
    return model


# Resolved specs

END = "...\n"  # YAML's end of a document: what lacks it was cut off


def dump(spec: Spec) -> str:
    """`spec` as YAML text in the schema's order; `load_frozen` gives back an equal spec."""
    return "\n".join(_dump_lines(spec, "")) + "\n" + END


def _dump_lines(section: BaseModel, indent: str) -> Iterator[str]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _dump_lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {_yaml_text(value)}"


def _yaml_text(value: Any) -> str:
    """`value` on one line of YAML that version 1.1 and 1.2 read alike."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        text = repr(value)
        return text if "." in text else text.replace("e", ".0e")
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_yaml_text(key)}: {_yaml_text(inner)}' for key, inner in value.items())}}}"
    if not isinstance(value, str):
        return str(value)
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", value) and value.lower() not in _NOT_TEXT:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in escaped) + '"'


_NOT_TEXT = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}  # in one version of YAML or the other


def load_frozen(path: str | Path) -> Spec:
    """The spec in a file that `dump` made. Raises UserError where the file is damaged or does not fit the schema."""
    path = Path(path)
    tree = read_tree(path)
    if not path.read_text(encoding="utf-8").endswith("\n" + END):
        raise UserError(f"{path}: damaged: the end is missing")
    spec, wrong = _validate(plain(tree))
    if spec is None:
        _refuse([_line(tree, {}, complaint) for complaint in wrong])
    return spec


def difference(old: Spec, new: Spec, ignore: Sequence[str] = ()) -> list[str]:
    """The fields that differ, such as `train.lr: 0.0001 -> 0.0002`, but for those at or below the keys `ignore`."""
    if old == new:  # for the sake of large sweeps
        return []
    seen = [key for key in KEYS if not any(f"{key}.".startswith(f"{prefix}.") for prefix in ignore)]
    return [f"{key}: {_yaml_text(value_at(old, key))} -> {_yaml_text(value_at(new, key))}"
            for key in seen if value_at(old, key) != value_at(new, key)]
