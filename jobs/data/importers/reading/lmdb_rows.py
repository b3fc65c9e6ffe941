"""Read the entries of an LMDB database, in a child process (`child.ChildReader`): a damaged file may end the process."""

import os
from collections.abc import Iterator
from typing import Any

from jobs.data.importers.encoded import Record
from jobs.data.importers.reading.child import Opened
from jobs.data.importers.reading.tar_members import MOST_BYTES
from jobs.errors import UserError
from jobs.storage.names import reason


def lmdb_rows(arguments: dict[str, Any]) -> Iterator[Any]:
    """Facts (`total`), then a Record for each entry of each database: `databases` are pairs of path and label.

    Names of records are keys. Raises UserError for a damaged database.
    """
    import lmdb
    yield {"total": sum(_count(lmdb, path) for path, _ in arguments["databases"])}
    for path, label in arguments["databases"]:
        yield Opened(path)
        yield from _rows(lmdb, path, label)


def _open(lmdb: Any, path: str) -> Any:
    try:
        # Without lock.mdb: sources are often not writable. Without readahead: LMDB jumps in a file larger than memory.
        return lmdb.open(path, subdir=os.path.isdir(path), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        why = reason(error).removeprefix(f"{path}: ")
        raise UserError(f"{path}: not an LMDB database, or a damaged one ({why})") from error


def _count(lmdb: Any, path: str) -> int:
    with _open(lmdb, path) as database:
        return database.stat()["entries"]


def _rows(lmdb: Any, path: str, label: str | None) -> Iterator[Record]:
    count, last = 0, None
    try:
        with _open(lmdb, path) as database, database.begin(buffers=True) as transaction:
            expected = transaction.stat()["entries"]
            for key, value in transaction.cursor():
                key, count = bytes(key), count + 1
                if last is not None and key <= last:  # keys are in order, or pages are read again and again
                    raise UserError(f"{path}: damaged: its keys are not in order after {count - 1:,} entries")
                last, name = key, key.decode("ascii", "backslashreplace")
                if len(value) > MOST_BYTES:
                    yield Record(name, b"", label, f"{len(value):,} bytes, more than an image has")
                else:
                    yield Record(name, bytes(value), label)
    except lmdb.Error as error:
        raise UserError(f"{path}: damaged after {count:,} entries ({reason(error)})") from error
    if count != expected:
        raise UserError(f"{path}: damaged: it has {count:,} of {expected:,} entries")
