"""Lock a file against other processes, also on file systems that know no locks.

The ways are tried in this order; all processes that see the same file system end with the same one:

1. `flock`. The system ends the lock with the process, even after kill -9.
2. Locks of the open file (OFD, Linux 3.15), where only `flock` is missing. They end with the process, too.
3. A second file, NAME.held, that only one process can create (Lustre mounted without locks, NFS without lockd). Its holder
   touches the file every BEAT_S seconds. The file is void when its holder is dead, or gave no sign of life for EXPIRY_S.
"""

import errno
import fcntl
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jobs.errors import Busy, UserError
from jobs.storage.disk_errors import disk_errors_explained
from jobs.storage.files import temporary_name
from jobs.storage.machine import is_gone, this_machine
from jobs.terminal import printable

POLL_S = 0.05
BEAT_S, EXPIRY_S = 5.0, 60.0
HELD_BY_ANOTHER = (errno.EWOULDBLOCK, errno.EAGAIN)


@contextmanager
def locked(path: Path, busy: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of the file `path` while the block lasts; the file is made where it is missing. Also excludes threads.

    Waits up to `wait` seconds for another process that holds the lock. Then raises Busy: the sentence `busy`, and who holds the
    lock. Raises UserError that names `path` if the file cannot be made or written.
    """
    descriptor = _open(path)
    release: Callable[[], None] | None = None
    try:
        deadline = time.monotonic() + wait
        while (release := _take(path, descriptor)) is None:
            if time.monotonic() >= deadline:
                raise Busy(f"{busy} ({_holder(path)}); wait for it or stop it")
            time.sleep(POLL_S)
        with suppress(OSError):  # the words help users, and the lock holds without them: on a full disk, in another user's file
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        if release is not None:
            release()
        os.close(descriptor)


def _open(path: Path) -> int:
    """Open the file `path`; only for reading if it belongs to another user, as in the folder of a group."""
    with disk_errors_explained(path):
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
        except PermissionError:
            if path.is_file() and os.access(path.parent, os.W_OK):
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            raise
        except IsADirectoryError as error:
            raise UserError(f"{path}: a folder stands where a file is needed, the lock; remove that folder") from error


def _holder(path: Path) -> str:
    """Who holds the lock, in the words that the holder wrote into the file."""
    with suppress(OSError):
        words = path.read_bytes()[:200].decode("utf-8", "replace").strip()
        return printable(words) or "unknown"
    return "unknown"


def _take(path: Path, descriptor: int) -> Callable[[], None] | None:
    """Take the lock in the first way that works here. Return what ends the lock; None if another process holds the lock."""
    for way in (_flock, _lock_of_the_open_file):
        try:
            way(descriptor)
            return lambda: None  # ends when the descriptor is closed
        except OSError as error:
            if error.errno in HELD_BY_ANOTHER:
                return None
    # ENOSYS, ENOLCK, ENOTSUP, or whatever else this file system says: it has no locks.
    with disk_errors_explained(path):
        return _take_file(path.with_name(path.name + ".held"))


def _flock(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock_of_the_open_file(descriptor: int) -> None:
    """`flock` by way of fcntl(2). Not `lockf`, whose lock ends when the process closes the file anywhere else."""
    whole_file = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, whole_file)


def _take_file(held: Path) -> Callable[[], None] | None:
    """Create `held` and keep touching it. Return what removes it; None while another process holds it."""
    us = json.dumps({"machine": this_machine(), "pid": os.getpid(), "thread": threading.get_ident(), "time": time.time()})
    try:
        descriptor = os.open(held, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return _take_file(held) if _removed_as_void(held) else None
    try:
        os.write(descriptor, us.encode())
    finally:
        os.close(descriptor)
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(held, us, ended), name="lock", daemon=True)
    beats.start()

    def release() -> None:
        ended.set()
        beats.join()
        with suppress(OSError):
            if held.read_text() == us:
                held.unlink()
    return release


def _beat(held: Path, us: str, ended: threading.Event) -> None:
    """Touch `held` until the lock ends."""
    while not ended.wait(BEAT_S):
        with suppress(OSError):
            if held.read_text() != us:
                print(f"note: {held}: this process was stopped for so long that another one took its lock", flush=True)
                return
            os.utime(held)


def _removed_as_void(held: Path) -> bool:
    """Remove `held` if its holder is gone. If the last sign of life is old, wait for another one, for up to EXPIRY_S."""
    try:
        words, before = held.read_text(errors="replace"), held.stat().st_mtime
        if not _holder_is_dead(words):
            said = False
            while (age := _now_at(held.parent) - before) <= EXPIRY_S:
                if age < 2 * BEAT_S or held.stat().st_mtime != before:
                    return False
                if not said:
                    print(f"note: {held}: waiting for up to {EXPIRY_S:.0f} s, to see whether its holder is alive", flush=True)
                said = True
                time.sleep(POLL_S)
        aside = temporary_name(held.with_name(f"{held.name}-{threading.get_ident()}"))
        os.rename(held, aside)
        ours = aside.read_text(errors="replace") == words
        if not ours:  # another process removed the void file before us, and holds the lock now: give its file back
            with suppress(OSError):
                os.link(aside, held)
        aside.unlink()
        return ours
    except FileNotFoundError:  # removed just now
        return True


def _holder_is_dead(words: str) -> bool:
    """Whether the process that wrote `words` ran on this machine and has ended. False if `words` are not whole."""
    try:
        holder = json.loads(words)
        return is_gone(holder["machine"], int(holder["pid"]))
    except (ValueError, KeyError, TypeError):
        return False


def _now_at(folder: Path) -> float:
    """The time by the clock of the file system, which may not be that of this machine."""
    probe = temporary_name(folder / f"now-{threading.get_ident()}")
    try:
        probe.write_bytes(b"")
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
