"""The names of a sweep's runs: folders named by what differs, such as noise_schedule=cosine,loss=hybrid."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.storage.files import sha256_of_json

MAX_NAME = 120  # characters; file systems end at 255 bytes, and tools add suffixes


def run_names(points: Sequence[Mapping[str, Any]], given: Sequence[str | None] | None = None) -> list[str]:
    """Return a name for each point (dotted key -> value), such as `noise_schedule=cosine,loss=hybrid`; `run` for an empty one.

    `given`: the name that the spec gives to a point; its values, in `points`, are those besides the named point's own.
    Names are unique even where case does not count, at most MAX_NAME long, and made of letters, digits and . _ + - = , only.
    A name depends on its own point and on which keys are swept, not on the other points; only where two would be equal do
    both get a hash of their point.
    """
    short = _short_keys(list(dict.fromkeys(key for point in points for key in point)))
    names = []
    for point, name in zip(points, given or [None] * len(points)):
        parts = [*([name] if name else []), *(f"{short[key]}={_in_name(value)}" for key, value in point.items())]
        names.append(",".join(parts) or "run")
    seen = Counter(name.lower() for name in names)
    return [_hashed(name, point) if len(name) > MAX_NAME or seen[name.lower()] > 1 else name
            for name, point in zip(names, points)]


def _short_keys(keys: list[str]) -> dict[str, str]:
    """Return the shortest dotted end of each key that is the end of no other."""
    endings = {key: [key.split(".", start)[-1] for start in range(key.count("."), -1, -1)] for key in keys}
    count = Counter(ending for of_key in endings.values() for ending in of_key)
    return {key: next((ending for ending in endings[key] if count[ending] == 1), key) for key in keys}


def _in_name(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return "-".join(map(_in_name, value)) or "empty"
    return re.sub(r"[^A-Za-z0-9._+-]", "-", str(value)) or "empty"


def _hashed(name: str, point: Mapping[str, Any]) -> str:
    digest = sha256_of_json(dict(point))[:10]
    # After a comma every other name has a key with "=", so that no plain name equals a hashed one.
    return f"{name[:MAX_NAME - 1 - len(digest)]},{digest}"
