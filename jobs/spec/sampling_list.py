"""`evaluate.samplings`: further ways to sample, each a mapping of the keys of `sample` that differ from the main ones.

A list of values means each of them, and lists in one mapping multiply: {sampler: unipc, timestep_respacing: [logsnr10, logsnr20]}
is two samplings. A mapping inside is laid over the main one's, unless the two are of different `kind`. For a key whose own
value is a list, a list of lists means each.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from jobs.spec.fields import OfAllSamplings
from jobs.spec.keys import Place, dotted, merged, sections_in
from jobs.spec.kinds import Changes, draws_samples
from jobs.spec.sections import Sample, SpecAsWritten

MOST = 1000
"""Samplings that one spec may list."""
KEY = ("evaluate", "samplings")


@dataclass(frozen=True)
class Listed:
    """One sampling of evaluate.samplings."""

    changes: Changes
    """All keys that its mapping names, with their values as a spec has them."""
    number: int
    """The mapping's place in the list."""
    places: Mapping[Place, Place] = field(default_factory=dict)
    """By the path of a value in `sample`, its path in the mapping, where it may stand in a list of values."""

    def key(self, path: Place) -> str:
        """Return the dotted key, such as "evaluate.samplings[0].sampler", that says the value at `path` of `sample`."""
        return dotted((*KEY, self.number, *nearest(self.places, path)))


class WrongList(Exception):
    """Mistakes in evaluate.samplings: each the path in the spec, and a message or an error of pydantic's below `sample`."""

    def __init__(self, mistakes: list[tuple[Place, str | Mapping[str, Any]]]):
        super().__init__(str(mistakes))
        self.mistakes = mistakes


def nearest(places: Mapping[Place, Place], path: Place) -> Place:
    """Return where the value at `path`, or the nearest one around it, is written; pydantic's paths also name kinds."""
    known = {tuple(inside): place for inside, place in places.items()}
    while path and path not in known:
        shorter = [path[:at] + path[at + 1:] for at in range(1, len(path))]
        path = next((one for one in shorter if one in known), path[:-1])
    return known.get(path, ())


def listed(spec: SpecAsWritten) -> tuple[Listed, ...]:
    """Return the samplings of evaluate.samplings. Raises WrongList where the list is not in order."""
    entries = spec.evaluate.samplings if draws_samples(spec) else None
    return _read(type(spec.sample), spec.sample.model_dump_json(), json.dumps(entries)) if entries else ()


@lru_cache(maxsize=1000)  # stages ask again and again
def _read(section: type[Sample], main: str, entries: str) -> tuple[Listed, ...]:
    own, found, wrong = json.loads(main), list[Listed](), list[tuple[Place, str | Mapping[str, Any]]]()
    for number, entry in enumerate(json.loads(entries)):
        try:
            choices = _choices(entry, [section], ())
            if len(found) + len(choices) > MOST:
                raise _Wrong([((), f"{MOST:,} samplings are the most that a spec may list")])
        except _Wrong as error:
            wrong += [((*KEY, number, *place), message) for place, message in error.mistakes]
            continue
        for choice in choices:
            try:
                found.append(Listed(_changes(section, own, choice.value), number, choice.places))
            except ValidationError as error:
                wrong += [((*KEY, number, *_place_of(each, choice.places)), each) for each in error.errors(include_url=False)]
    if wrong:
        raise WrongList(wrong)
    return tuple(found)


def _place_of(error: Mapping[str, Any], places: Mapping[Place, Place]) -> Place:
    """Return the place that an error of pydantic's is about: of a key that is not given, where it should stand."""
    *around, key = path = error["loc"]
    return (*nearest(places, tuple(around)), key) if error["type"] == "missing" else nearest(places, path)


def _changes(section: type[Sample], own: Mapping[str, Any], values: Mapping[str, Any]) -> Changes:
    """Return `values` as the section reads them, in its order, each laid over the main sampling's `own`."""
    if values.get("ema_rate") is not None:  # an average by its rate is none by its length
        values = {"ema_sigma_rel": None, **values}
    laid_over = merged(own, values)
    read = section.model_validate({key: laid_over[key] for key in values})
    return tuple((key, getattr(read, key)) for key in section.model_fields if key in values)


# Lists of values

class _Wrong(Exception):
    def __init__(self, mistakes: list[tuple[Place, str]]):
        super().__init__(str(mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True)
class _Choice:
    """A value, and by the path in it where that is written."""

    value: Any
    places: Mapping[Place, Place]


def _choices(value: Any, types: Sequence[Any], place: Place) -> list[_Choice]:
    """Return the values that `value`, written at `place` for a key of these types, stands for. Raises _Wrong."""
    if isinstance(value, list) and types and (not any(map(_takes_list, types)) or any(isinstance(one, list) for one in value)):
        if not value:
            raise _Wrong([(place, "must have at least one value")])
        found = [choice for index, one in enumerate(value) for choice in _one(one, types, (*place, index))]
        if len(found) > MOST:
            raise _Wrong([(place, f"{MOST:,} samplings are the most that a spec may list")])
        return found
    return _one(value, types, place)


def _one(value: Any, types: Sequence[Any], place: Place) -> list[_Choice]:
    sections = [section for each in types for section in sections_in(each)]
    if not isinstance(value, dict) or not sections:
        return [_Choice(value, {(): place})]
    if refused := list(_refused(sections, value, place)):
        raise _Wrong(refused)
    columns = {key: _choices(inner, _types_of(sections, key), (*place, key)) for key, inner in value.items()}
    if (count := prod(map(len, columns.values()))) > MOST:
        raise _Wrong([(place, f"makes {count:,} samplings; {MOST:,} are the most that a spec may list")])
    return [_Choice({key: choice.value for key, choice in zip(columns, row, strict=True)},
                    {(): place} | {(key, *inside): where for key, choice in zip(columns, row, strict=True)
                                   for inside, where in choice.places.items()})
            for row in product(*columns.values())]


def _refused(sections: Sequence[type[BaseModel]], value: Mapping[str, Any], place: Place) -> Iterator[tuple[Place, str]]:
    """Yield the keys that no sampling may have for itself, each with the reason."""
    for key in value:
        marks = [mark for section in sections if key in section.model_fields for mark in section.model_fields[key].metadata]
        yield from (((*place, key), f"belongs to all samplings of a run: {mark.reason}") for mark in marks
                    if isinstance(mark, OfAllSamplings))


def _types_of(sections: Iterable[type[BaseModel]], key: str) -> list[Any]:
    return [section.model_fields[key].annotation for section in sections if key in section.model_fields]


def _takes_list(annotation: Any) -> bool:
    """Return whether a field of this type may hold a list."""
    return get_origin(annotation) in (list, tuple) or any(map(_takes_list, get_args(annotation)))
