"""Read JSON files as the types that they were written from. Whatever else a file holds becomes one sentence."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from jobs.errors import UserError
from jobs.storage.files import read_json

T = TypeVar("T")
Count = Annotated[int, Field(ge=0, lt=2 ** 63)]
Time = Annotated[float, Field(ge=0, lt=253_402_300_800, allow_inf_nan=False)]
"""Seconds since 1970, up to the year 9999: what the calendar can show."""
Seconds = Annotated[float, Field(gt=-1e12, lt=1e12, allow_inf_nan=False)]


def read_record(path: Path, kind: type[T]) -> T:
    """Return the content of the JSON file `path` as the dataclass `kind`; fields that `kind` does not have are left out.

    Raises FileNotFoundError, or UserError that names the file and the first field that is not as `kind` has it.
    """
    return as_record(read_json(path), kind, str(path))


def read_if_whole(path: Path, kind: type[T], remarks: list[str]) -> T | None:
    """Return `read_record`'s result; None where the file is missing or, with a line added to `remarks`, where it is damaged."""
    try:
        return read_record(path, kind)
    except FileNotFoundError:
        return None
    except UserError as error:
        remarks.append(str(error))
        return None


def as_record(value: Any, kind: type[T], source: str) -> T:
    """Return `value`, which JSON held, as the dataclass `kind`. Raises UserError that names `source` and the wrong field."""
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "".join(f"{key}: " for key in [".".join(map(str, first["loc"]))] if key)
        what = "a mapping is expected" if first["type"] == "dataclass_type" else first["msg"][:1].lower() + first["msg"][1:]
        raise UserError(f"{source}: not as iddpm writes this file: {where}{what}") from error


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    if kind not in _ADAPTERS:  # making one takes a thousand times longer than using it
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


_ADAPTERS: dict[type, TypeAdapter] = {}
