"""Tell whether files are those of an earlier time without reading them."""

import os
from collections.abc import Iterable
from typing import NamedTuple


class Stamp(NamedTuple):
    """What changes when a file is written or replaced. The device does not count: nodes number their mounts differently."""

    path: str
    size: int
    mtime_ns: int
    inode: int


def stamps_of(paths: Iterable[str]) -> tuple[Stamp, ...]:
    """The stamps of the files `paths`, sorted. Raises OSError if one is gone."""
    found = []
    for path in sorted({os.path.realpath(path) for path in paths}):
        status = os.stat(path)
        found.append(Stamp(path, status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)
