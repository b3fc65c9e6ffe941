"""The schema's complaints about a spec, in plain words."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from jobs.quantities import one_of
from jobs.spec.keys import in_order, kinds_of, sections_in, suggestion, types_at, written
from jobs.spec.kinds import KINDS, kind_named
from jobs.spec.reading.sweep import Complaint
from jobs.spec.reading.yaml_text import yaml_text
from jobs.spec.sampling_list import WrongList, listed
from jobs.spec.sections import DEFAULT_KIND, SpecAsWritten

MISSING = "required, but not given"
FOREIGN = "belongs to kind: "
"""How the complaint about a key of another kind of model begins."""
_WORDS = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list, such as [1, 2]",
    "dict_type": "must be a mapping of names to values",
    "literal_error": "must be {expected}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "string_too_long": "must be at most {max_length} characters",
    "too_long": "must have at most {max_length} entries",
    "value_error": "{error}",
}


def validate(values: Any, resolved: bool = False) -> tuple[SpecAsWritten | None, list[Complaint]]:
    """Return the spec in plain `values`, or None and the complaints. `resolved`: the values are those of a resolved spec."""
    name = values.get("kind", DEFAULT_KIND)
    if not isinstance(name, str) or name not in KINDS:
        return None, [(("kind",), f"must be {one_of([*map(repr, KINDS)])} (got {_shown(name)})")]
    kind = kind_named(name)
    spec_type: type[SpecAsWritten] = kind.resolved if resolved else kind.written
    try:
        spec = spec_type.model_validate(values)
        listed(spec)
        return spec, []
    except WrongList as error:
        return None, [(place, found if isinstance(found, str) else
                       _explain({**found, "loc": ("sample", *found["loc"])}, name, spec_type)) for place, found in error.mistakes]
    except ValidationError as error:
        order = in_order(spec_type)
        found = sorted(error.errors(include_url=False), key=lambda item: _position(item["loc"], order))
        return None, [(written(spec_type, item["loc"]), _explain(item, name, spec_type)) for item in found]


def _position(path: tuple[str | int, ...], order: list[str]) -> int:
    return order.index(str(path[0])) if path and path[0] in order else len(order)


def _explain(error: Mapping[str, Any], kind: str, spec_type: type[BaseModel]) -> str:
    problem, path = error["type"], error["loc"]
    if problem == "extra_forbidden":
        return _unknown(path, kind, spec_type)
    if problem == "missing":
        return MISSING
    return in_words(error, spec_type)


def in_words(error: Mapping[str, Any], root: type[BaseModel]) -> str:
    """Return what is wrong with a value in a mapping of type `root`, and the value."""
    problem, path = error["type"], error["loc"]
    if problem == "model_type":
        words = f"must be a mapping with keys among {', '.join(_fields(root, path))}"
    elif problem in ("union_tag_not_found", "union_tag_invalid", "model_attributes_type"):  # one of several sections
        kinds = [kind for each in types_at(root, path) for section in sections_in(each) for kind in kinds_of(section)]
        words = f"must be a mapping whose kind is {one_of(kinds)}"
    else:
        limits = {name: f"{limit:,}" if isinstance(limit, int) else f"{limit:g}" if isinstance(limit, float) else limit
                  for name, limit in error.get("ctx", {}).items()}
        words = _WORDS[problem].format(**limits) if problem in _WORDS else error["msg"]
    optional = any(type(None) in get_args(each) for each in types_at(root, path))
    if problem.endswith("_type") and path and not isinstance(path[-1], int) and optional:
        words += " or null"
    return f"{words} (got {_shown(error['input'])})"


def _shown(value: Any) -> str:
    """Return a value as YAML, shortened."""
    text = yaml_text(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unknown(path: tuple[str | int, ...], kind: str, spec_type: type[BaseModel]) -> str:
    """Return the complaint about a key that this kind of model lacks; another kind may have the key."""
    others = [name for name in KINDS if name != kind and types_at(kind_named(name).written, path)]
    if others:
        return f"{FOREIGN}{one_of(others)}, but this spec is of kind: {kind}"
    allowed = [*_fields(spec_type, path[:-1]), *(["extends", "sweep"] if len(path) == 1 else [])]
    return f"unknown key; {suggestion(str(path[-1]), allowed)}"


def _fields(spec_type: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    return list(dict.fromkeys(name for each in types_at(spec_type, path) for section in sections_in(each)
                              for name in in_order(section)))
