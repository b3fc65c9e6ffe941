"""Files that are whole whenever they exist: written under a temporary name, flushed, renamed."""

import errno
import hashlib
import json
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Iterator

from jobs.errors import UserError


def _explain(error: OSError, path: Path) -> Exception:
    """What a user can do about a failed write to `path`; other errors come back unchanged."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UserError(f"{path}: no space left on the device or in the quota; free some and repeat the command")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return UserError(f"{path}: not writable ({os.strerror(error.errno)})")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return UserError(f"{path}: a file stands where a folder is needed")
    return error


def make_dir(path: Path) -> Path:
    """Create the folder `path` and its parents. Raises UserError where that is not allowed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explain(error, path) from error
    return path


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary_name(path: Path) -> Path:
    """Beside `path`: ranks on two nodes may have the same process id; and writers look at the suffix (.npz, .png)."""
    return path.with_name(f".{path.stem}.{os.uname().nodename}-{os.getpid()}.tmp{path.suffix}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write a file or folder under; rename it to `path` on success.

    The content is flushed to disk before the rename, so that after a crash `path` is either absent
    (or the old file) or whole. On any exception the temporary is removed; a full disk and a read-only
    folder become a UserError that names `path`.
    """
    path = Path(path)
    temporary = _temporary_name(path)
    try:
        make_dir(path.parent)
        yield temporary
        if temporary.is_dir():
            for file in sorted(temporary.rglob("*")):
                _flush_to_disk(file)
        _flush_to_disk(temporary)
        os.replace(temporary, path)
        _flush_to_disk(path.parent)
    except OSError as error:
        raise _explain(error, path) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what `atomic_path` left below `folder` when its process was killed. Nobody else may be writing there."""
    for leftover in folder.rglob(".*.tmp*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_texts(texts: dict[Path, str]) -> None:
    """Many small files at once, in order: each whole or absent like `write_text`'s, but with one flush for all of them."""
    temporaries = {path: _temporary_name(path) for path in texts}
    path = None
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporaries[path].write_text(text, encoding="utf-8")
        os.sync()
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    except OSError as error:
        raise _explain(error, path) from error
    finally:
        for temporary in temporaries.values():
            with suppress(OSError):
                temporary.unlink()


def json_text(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


def write_json(path: Path, value: Any) -> None:
    write_text(path, json_text(value))


def read_json(path: Path) -> Any:
    """Parse the JSON file `path`. Raises FileNotFoundError, or UserError where it is not JSON."""
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
    """Hash of a JSON-able value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
