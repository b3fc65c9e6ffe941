"""Whether a process still lives, as far as another process can tell."""

import os
from contextlib import suppress
from pathlib import Path


def this_machine() -> str:
    """This boot of this machine, and the namespace of process ids: where these are equal, one process can look for another."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    return f"unknown-{os.getpid()}"


def is_gone(machine: str, pid: int) -> bool:
    """Whether process `pid` of `machine`, as `this_machine` names it, has ended. False where this machine cannot know."""
    if machine != this_machine():
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return not Path(f"/proc/{pid}").exists()
    return state in (b"Z", b"X")  # ended; only its parent has not collected the exit status
