"""Write files that are whole whenever they exist: write a temporary file, flush it, rename it."""

import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jobs.errors import UserError
from jobs.storage.disk_errors import disk_errors_explained

DAY_S = 24 * 3600
MOST_BYTES = 1 << 28  # of a file that is read whole
MOST_LEVELS, MOST_DIGITS = 40, 40  # of a JSON file: our own files have ten levels, and numbers of twenty digits


def private_to_write() -> None:
    """From now on, what this process and its children create is not writable for the group and for others.

    Some sites have a umask of 002 or 000: whoever can write the code of a study or submitit's pickles can run programs as us.
    """
    os.umask(os.umask(0o077) | 0o022)


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


def temporary_name(path: Path) -> Path:
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
    temporary = temporary_name(path)
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
    if named[1].endswith(f".{os.uname().nodename}"):
        return Path(f"/proc/{named[2]}").exists()
    with suppress(OSError):
        return time.time() - leftover.stat().st_mtime < DAY_S
    return True


def write_text(path: Path, text: str, durable: bool = True) -> None:
    with atomic_path(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_texts(texts: dict[Path, str]) -> None:
    """Write many small files, in order. Each is whole or absent, as with `write_text`, but one flush serves all of them."""
    temporaries = {path: temporary_name(path) for path in texts}
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


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return the content of the file `path`, at most `most` bytes. Never waits, as opening a named pipe would.

    Raises FileNotFoundError if there is no such file, and UserError if something else stands there or cannot be read.
    """
    return _read(path, most, whole=True)


def check_file(path: Path) -> None:
    """Raise FileNotFoundError or UserError, as `read_bytes` does, unless `path` is a file that can be opened, of any size."""
    _read(path, 0, whole=False)


def _read(path: Path, most: int, whole: bool) -> bytes:
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"{path}: not a file, but {_KINDS.get(stat.S_IFMT(found.st_mode), 'something else')}")
            if whole and found.st_size > most:
                raise UserError(f"{path}: {found.st_size:,} bytes; such a file has at most {most:,}")
            return file.read(most)
    except FileNotFoundError as error:
        if os.path.islink(path):
            raise UserError(f"{path}: a link to {os.readlink(path)}, which does not exist") from error
        raise
    except IsADirectoryError as error:
        raise UserError(f"{path}: not a file, but a folder") from error
    except (OSError, ValueError) as error:  # ValueError: a name with the character 0
        raise UserError(f"{path}: not readable ({getattr(error, 'strerror', None) or error})") from error


_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
          stat.S_IFBLK: "a device"}


def read_json(path: Path) -> Any:
    """Parse the JSON file `path`. Raises FileNotFoundError, or UserError if the file cannot be read or is not JSON."""
    content = read_bytes(Path(path))
    try:
        value = json.loads(content.decode("utf-8"), parse_int=_integer)
        if re.search(rb"\\u[dD][89a-fA-F]", content):  # perhaps half a character, which no file and no terminal takes
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        raise UserError(f"{path}: not valid JSON (not UTF-8)") from error
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path}: not valid JSON ({why})") from error
    if _deeper_than(value, MOST_LEVELS):
        raise UserError(f"{path}: not valid JSON (nested too deeply)")
    return value


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _deeper_than(value: Any, levels: int) -> bool:
    """Whether lists and mappings in `value` lie more than `levels` deep."""
    level = [value]
    for _ in range(levels + 1):
        level = [child for item in level if isinstance(item, (list, dict))
                 for child in (item.values() if isinstance(item, dict) else item)]
    return bool(level)


def remove_file(path: Path) -> None:
    """Delete the file `path`, if there is one. Raises UserError if a folder stands there, or the disk refuses."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        folder = os.path.isdir(path) and not os.path.islink(path)
        raise UserError(f"{path}: {'a folder, where a file is expected; remove it' if folder else error.strerror}") from error


def sha256_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_json(value: Any) -> str:
    """Hash of a value that JSON can hold; the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
