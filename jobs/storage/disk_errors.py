"""What the system says about a file or folder, in a sentence that a user can act on."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jobs.errors import UserError


def explained(error: OSError, path: Path | None = None) -> Exception:
    """A UserError that says what to do about `error`, which came of using `path`; `error` itself if a user can do nothing."""
    if path is None:
        if not isinstance(error.filename, str | os.PathLike):
            return _explained_without_file(error)
        path = Path(error.filename)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UserError(f"{path}: no space left on the device or in the quota; free some and repeat the command")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return UserError(f"{path}: {_refused(path)} ({os.strerror(error.errno)}{_belonging(path)})")
    if error.errno == errno.ENAMETOOLONG:
        return UserError(f"{str(path)[:100]}...: the name is too long for the file system")
    if error.errno == errno.EISDIR:
        return UserError(f"{path}: a folder stands where a file is needed")
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ELOOP):
        return UserError(obstacle) if (obstacle := _obstacle(path, error.errno)) else error
    return error


def why_missing(path: str | Path) -> str | None:
    """Why `path` seems not to be there, in a sentence that names the place: a link to nowhere, a file in the place of a folder,
    a folder that may not be searched. None where it is there, or simply missing."""
    path = Path(path)
    if obstacle := _obstacle(path, 0):
        return obstacle
    try:
        os.stat(path)
    except OSError as error:
        reason = explained(error, path)
        return str(reason) if isinstance(reason, UserError) else None
    return None


def _explained_without_file(error: OSError) -> Exception:
    if error.errno == errno.ENOENT and "temporary directory" in str(error.strerror):
        return UserError(f"{error.strerror}; make one of them writable, or name another one in TMPDIR")
    if error.errno == errno.ENOENT and not _has_current_folder():
        return UserError("the current folder has been deleted; change to one that exists")
    return error


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _refused(path: Path) -> str:
    if os.path.lexists(path):
        return "not writable" if os.access(path, os.R_OK) else "not readable"
    return "not writable" if os.access(path.parent, os.X_OK) else "not accessible"


def _belonging(path: Path) -> str:
    """Whose `path` is, if another user's; else that of the folder that refused it."""
    for place in (path, *path.parents):
        with suppress(OSError):
            owner = os.stat(place).st_uid
            return f"; {place} is another user's, uid {owner}" if owner not in (os.geteuid(), 0) else ""
    return ""


def _fault_of_link(link: Path) -> str:
    try:
        os.stat(link)
    except OSError as error:
        return {errno.ELOOP: "leads back to it", errno.EACCES: "cannot be followed"}.get(error.errno or 0, "does not exist")
    return "leads elsewhere now"


def _obstacle(path: Path, number: int) -> str | None:
    """What on the way to `path` is no folder: a sentence that names the place. None if nothing is."""
    if not path.is_absolute() and not _has_current_folder():
        return f"{path}: the current folder has been deleted; change to one that exists"
    for place in (*reversed(path.parents), path):
        if not os.path.lexists(place):
            return None
        if os.path.islink(place) and not os.path.exists(place):
            return f"{place}: a link to {os.readlink(place)}, which {_fault_of_link(place)}"
        if not os.path.isdir(place) and (place != path or number in (errno.EEXIST, errno.ENOTDIR)):
            return f"{place}: a file stands where a folder is needed"
    return None


@contextmanager
def disk_errors_explained(path: Path) -> Iterator[None]:
    """Turn errors of the disk that a user can mend into a UserError that names `path`. Other exceptions pass unchanged."""
    try:
        yield
    except OSError as error:
        raise explained(error, path) from error
