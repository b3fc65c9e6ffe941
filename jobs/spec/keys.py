"""The dotted keys of specs, such as train.lr, of every depth."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel

from jobs.spec.kinds import KINDS, kind_named
from jobs.spec.sections import SpecAsWritten

Place = tuple[str | int, ...]
"""A path through a spec: keys of mappings, and numbers of list entries."""


def dotted(place: Place) -> str:
    """Return a path as a dotted key: ("evaluate", "samplings", 0, "sampler") as "evaluate.samplings[0].sampler"."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def place_of(key: str) -> Place:
    """Return the path of a dotted key, as `dotted` takes it."""
    return tuple(int(part[1:-1]) if part.startswith("[") else part
                 for part in re.findall(r"\[\d+\]|[^.\[]+", key))


@cache
def keys_of(spec_type: type[BaseModel]) -> tuple[str, ...]:
    """Return every field of the sections of `spec_type`, dotted, in their order; sections themselves are left out."""
    return tuple(_leaves(spec_type, ""))


def in_order(section: type[BaseModel]) -> list[str]:
    """Return the fields of `section` as people read them: in a spec, a kind's own sections stand behind `data`."""
    fields = list(section.model_fields)
    if not issubclass(section, SpecAsWritten):
        return fields
    own = [name for name in fields if name not in SpecAsWritten.model_fields]
    place = fields.index("data") + 1
    return [*fields[:place], *own, *(name for name in fields[place:] if name not in own)]


def _leaves(section: type[BaseModel], prefix: str) -> Iterable[str]:
    for name in in_order(section):
        field = section.model_fields[name]
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _leaves(field.annotation, f"{prefix}{name}.")
        else:  # a section that may be null, or is one of several, counts as a whole
            yield prefix + name


def all_keys() -> list[str]:
    """Return the keys of all kinds, each once."""
    return list(dict.fromkeys(key for name in KINDS for key in keys_of(kind_named(name).written)))


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections that a field of this type may hold: none for a plain value, several for a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for inner in get_args(annotation) for section in sections_in(inner)]


def types_at(spec_type: type[BaseModel], path: Iterable[str | int]) -> list[Any]:
    """Return the types that the schema allows at `path`; none where the schema has no such key.

    Where one of several sections may stand, the path may say which, as pydantic's paths do; see `written`.
    """
    return _walk(spec_type, path)[1]


def written(spec_type: type[BaseModel], path: Iterable[str | int]) -> tuple[str | int, ...]:
    """Return a path of pydantic's as a person writes it: without the kind of a section that is one of several."""
    return _walk(spec_type, path)[0]


def _walk(spec_type: type[BaseModel], path: Iterable[str | int]) -> tuple[tuple[str | int, ...], list[Any]]:
    keys, found = list[str | int](), list[Any]([spec_type])
    for key in path:
        sections = [section for each in found for section in sections_in(each)]
        inner = [section.model_fields[str(key)].annotation for section in sections if key in section.model_fields]
        if not inner and (meant := [section for section in sections if key in kinds_of(section)]):
            found = list(meant)
            continue
        keys.append(key)
        found = inner
    return tuple(keys), found


def kinds_of(section: type[BaseModel]) -> tuple[Any, ...]:
    """Return the values of `kind` for which this section stands among several; none for a section that is alone."""
    return get_args(section.model_fields["kind"].annotation) if "kind" in section.model_fields else ()


def value_at(spec: SpecAsWritten, key: str) -> Any:
    """Return the value of the dotted `key`: a plain value, or a dictionary for a section. None where the kind has no such key."""
    found: Any = spec
    for name in key.split("."):
        found = getattr(found, name, None)
    return found.model_dump() if isinstance(found, BaseModel) else found


def written_at(written: Any, key: str) -> tuple[bool, Any]:
    """Return whether the dotted `key` is in plain values of a spec, such as those without defaults, and the value there."""
    for name in key.split("."):
        if not isinstance(written, Mapping) or name not in written:
            return False, None
        written = written[name]
    return True, written


def suggestion(key: str, allowed: Iterable[str]) -> str:
    """Return the end of the message about an unknown key: the key that was probably meant, or all `allowed` keys."""
    known, allowed = all_keys(), list(allowed)
    if key in known:
        section, _, field = key.rpartition(".")
        return f"write {field} inside the section {section}"
    same_word = [other for other in known if other.endswith("." + key.rpartition(".")[2])]
    near = same_word or get_close_matches(key, allowed, n=1)
    if near:
        return f"did you mean {' or '.join(f'`{other}`' for other in near)}?"
    return f"allowed: {', '.join(allowed)}"


def merged(under: Any, over: Any) -> Any:
    """Return plain values with `over` on top of `under`: mappings key by key, anything else replaced.

    A mapping inside that names another `kind`, such as sample.guidance, replaces the one below as a whole.
    """
    if not isinstance(under, Mapping) or not isinstance(over, Mapping):
        return over
    return {**under, **{key: value if key not in under or of_another_kind(under[key], value) else merged(under[key], value)
                        for key, value in over.items()}}


def of_another_kind(under: Any, over: Any) -> bool:
    """Return whether two mappings name different kinds; one that names none takes that of the other."""
    return (isinstance(under, Mapping) and isinstance(over, Mapping)
            and "kind" in under and over.get("kind", under["kind"]) != under["kind"])
