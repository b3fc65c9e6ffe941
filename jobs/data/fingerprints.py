"""Hash the data of a file once, not at every start: 16 GB take half a minute, at each of many requeues."""

import time
from contextlib import suppress
from pathlib import Path

from jobs.data.dataset import ImageData, fingerprint
from jobs.errors import UserError
from jobs.storage.files import read_json, sha256_of_json, write_json
from jobs.storage.stamps import Stamp, stamps_of

_SETTLED = 2e9  # nanoseconds after which another change gets another time, on the file systems that we know
_VERSION = 1


_known: dict[tuple[Stamp, ...], str] = {}
"""Fingerprints by the stamps of the files, in this process."""


def kept_fingerprint(data: ImageData, cache: Path | None = None) -> str:
    """`fingerprint` of `data`: as this process or the folder `cache` knows it, where the files of the data are unchanged.

    Unchanged means the size, time and inode of then. Data in no file are hashed always. Of files that changed while they were
    open, or a moment before, nothing is remembered.
    """
    key = {"files": [list(stamp) for stamp in data.stamps], "version": _VERSION}
    file = cache and cache / f"data-{sha256_of_json(key)[:16]}.json"
    if _unchanged(data.stamps) and (found := _known.get(data.stamps) or _read(file, key)):
        return found
    found = fingerprint(data)
    if _unchanged(data.stamps) and max(stamp.mtime_ns for stamp in data.stamps) < time.time_ns() - _SETTLED:
        _known[data.stamps] = found
        if file:
            with suppress(UserError, OSError):  # a folder that only others may write: the data are hashed next time, too
                write_json(file, key | {"sha256": found})
    return found


def _unchanged(stamps: tuple[Stamp, ...]) -> bool:
    try:
        return bool(stamps) and stamps_of(stamp.path for stamp in stamps) == stamps
    except OSError:
        return False


def _read(file: Path | None, key: dict) -> str | None:
    """The fingerprint in `file`, if the file is whole and was written for `key`."""
    if file is None:
        return None
    try:
        found = read_json(file)
        return found["sha256"] if {name: found[name] for name in key} == key and isinstance(found["sha256"], str) else None
    except (OSError, UserError, KeyError, TypeError):
        return None
