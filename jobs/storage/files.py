"""Write files that are whole whenever they exist: write a temporary file, flush it, rename it."""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jobs.errors import UserError
from jobs.storage.disk_errors import disk_errors_explained

DAY_S = 24 * 3600


def make_dir(path: Path) -> Path:
    """Create the folder `path` and its parents. Raises UserError if the disk refuses."""
    with disk_errors_explained(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary_name(path: Path) -> Path:
    """A name beside `path`: unique, as the node and the process are in it, and with the suffix, which some writers read."""
    return path.with_name(f".{path.stem}.{os.uname().nodename}-{os.getpid()}.tmp{path.suffix}")


@contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside `path`; write a file or a folder there. On success it is renamed to `path`.

    The content is flushed to the disk before the rename: after a crash `path` is absent, or the old file, or whole. With
    `durable` false nothing is flushed: readers see the old file or the new one, but after a crash of the machine it may be
    damaged. After an exception the temporary file is removed. Raises UserError that names `path` if the disk is full or
    read-only.
    """
    path = Path(path)
    temporary = _temporary_name(path)
    try:
        with disk_errors_explained(path):
            make_dir(path.parent)
            yield temporary
            if not durable:
                os.replace(temporary, path)
                return
            if temporary.is_dir():
                for file in sorted(temporary.rglob("*")):
                    _flush_to_disk(file)
            _flush_to_disk(temporary)
            os.replace(temporary, path)
            _flush_to_disk(path.parent)
    finally:
        with suppress(OSError):  # the first error counts
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes below `folder`. No other process may be writing in folders below `folder`.

    Directly in `folder` others may write small files, as `iddpm submit` does: those stay that may belong to a live process.
    """
    for leftover in folder.rglob(".*.tmp*"):
        if leftover.parent == folder and _may_be_alive(leftover):
            continue
        with suppress(FileNotFoundError):  # renamed just now
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _may_be_alive(leftover: Path) -> bool:
    """Whether the process that made a temporary file may still write it; the name has the node and the process."""
    named = re.search(r"\.([^/]*)-(\d+)\.tmp", leftover.name)
    if named is None:
        return False
    if named[1].endswith(os.uname().nodename):
        return Path(f"/proc/{named[2]}").exists()
    with suppress(OSError):
        return time.time() - leftover.stat().st_mtime < DAY_S
    return True


def write_text(path: Path, text: str, durable: bool = True) -> None:
    with atomic_path(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_texts(texts: dict[Path, str]) -> None:
    """Write many small files, in order. Each is whole or absent, as with `write_text`, but one flush serves all of them."""
    temporaries = {path: _temporary_name(path) for path in texts}
    try:
        for path, text in texts.items():
            with disk_errors_explained(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                temporaries[path].write_text(text, encoding="utf-8")
        os.sync()
        for path, temporary in temporaries.items():
            with disk_errors_explained(path):
                os.replace(temporary, path)
    finally:
        for temporary in temporaries.values():
            with suppress(OSError):
                temporary.unlink()


def json_text(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


def write_json(path: Path, value: Any) -> None:
    write_text(path, json_text(value))


def read_json(path: Path) -> Any:
    """Parse the JSON file `path`. Raises FileNotFoundError, or UserError if the file is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error


def sha256_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_json(value: Any) -> str:
    """Hash of a value that JSON can hold; the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
