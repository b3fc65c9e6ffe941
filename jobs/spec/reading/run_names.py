"""The names of a sweep's runs: folders named by what differs, such as noise_schedule=cosine,loss=hybrid."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.storage.files import sha256_of_json

MAX_NAME = 120  # characters; file systems end at 255 bytes, and tools add suffixes


def run_names(points: Sequence[Mapping[str, Any]], given: Sequence[str | None] | None = None) -> list[str]:
    """Return a name for each point (dotted key -> value), such as `noise_schedule=cosine,loss=hybrid`; `run` for an empty one.

    `given`: the name that the spec gives to each point, if any. Such a name comes first, and the point of `points` then
    holds only the keys that shall follow. Names are unique even where case does not count, at most MAX_NAME long, and made of
    letters, digits and . _ + - = , only. A name depends on its own point and on the keys that are swept, not on other points.
    Only where two names would be equal do both get a hash of their point.
    """
    short = _short_keys(list(dict.fromkeys(key for point in points for key in point)))
    given, names = given or [None] * len(points), []
    for point, name in zip(points, given, strict=True):
        parts = [*([name] if name else []), *(f"{short[key]}={_in_name(value)}" for key, value in point.items())]
        names.append(",".join(parts) or "run")
    seen = Counter(name.lower() for name in names)
    return [_hashed(name, point, own) if len(name) > MAX_NAME or seen[name.lower()] > 1 else name
            for name, point, own in zip(names, points, given, strict=True)]


def _short_keys(keys: list[str]) -> dict[str, str]:
    """Return for each key its shortest dotted end that no other key ends in."""
    endings = {key: [key.split(".", start)[-1] for start in range(key.count("."), -1, -1)] for key in keys}
    count = Counter(ending for of_key in endings.values() for ending in of_key)
    return {key: next((ending for ending in endings[key] if count[ending] == 1), key) for key in keys}


def _in_name(value: Any) -> str:
    """Return a value in the characters that a name may have; a section as the values of its keys."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return "-".join(map(_in_name, value)) or "empty"
    return re.sub(r"[^A-Za-z0-9._+-]", "-", str(value)) or "empty"


def _hashed(name: str, point: Mapping[str, Any], given: str | None) -> str:
    digest = sha256_of_json(dict(point) | ({"name": given} if given else {}))[:10]
    # In a plain name every comma is followed by a key with "=", so no plain name equals a hashed one.
    return f"{name[:MAX_NAME - 1 - len(digest)]},{digest}"
