"""Open HDF5 files to read them: without HDF5's lock, which some file systems lack, and never while they are being written."""

import fcntl
import os
import stat

import h5py

from jobs.errors import UserError

UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)
"""What h5py raises for a file that is damaged, or not HDF5."""
_LOCKING = "HDF5_USE_FILE_LOCKING"
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def open_hdf5(path: str | os.PathLike[str]) -> h5py.File:
    """Open the HDF5 file `path` for reading. All HDF5 files are opened here: HDF5 wants one kind of locking in a process.

    Raises UserError where the file is no regular file, or is open for writing in another process; FileNotFoundError,
    PermissionError, or another of UNREADABLE where it cannot be opened.
    """
    refuse_written(path)
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        if "already open for write" in str(error):  # a mark inside the file, which a program leaves that is killed
            raise UserError(f"{path}: open for writing in another process; close the file there. If no process has it "
                            "open, the one that wrote it was killed, and `h5clear -s FILE` takes its mark away") from error
        if "unable to lock file" in str(error):  # HDF5 obeys this variable rather than us
            raise UserError(f"{path}: HDF5 cannot lock the file, and {_LOCKING}={os.environ.get(_LOCKING, '')} demands it; "
                            f"unset {_LOCKING}, reading needs no lock") from error
        raise


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether the file `path` has HDF5's signature: at its start, or behind a user block of 512 bytes or a doubling of it."""
    with open(path, "rb") as file:
        place, end = 0, file.seek(0, os.SEEK_END)
        while place < end:
            file.seek(place)
            if file.read(len(_SIGNATURE)) == _SIGNATURE:
                return True
            place = max(512, 2 * place)
    return False


def refuse_written(path: str | os.PathLike[str]) -> None:
    """Raise UserError if another process holds the lock with which HDF5 writes, or if `path` is no regular file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe may not wait for its writer
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UserError(f"{path}: not a regular file, so it is no HDF5 file")
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"{path}: open for writing in another process, such as a notebook; close the file there, then "
                        "repeat the command") from error
    except OSError:
        pass  # a file system without locks cannot tell
    finally:
        os.close(descriptor)
