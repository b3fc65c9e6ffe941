"""The processes of a stage on this machine: which are alive, and their end where one of them died before all had met.

submitit's controller, their parent, waits for all of them. On SLURM `srun --kill-on-bad-exit` does what is done here, and
torchrun does so too.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

from submitit.core.core import Job
from submitit.core.utils import pickle_load

GOOD = ("done", "interrupted")
PATIENCE_S = 2.0  # in which the others may say themselves what is wrong


def descendants(pid: int) -> list[int]:
    """Ids of the processes that `pid` started, and of those that they started."""
    found = children(pid)
    return found + [grandchild for child in found for grandchild in descendants(child)]


def children(pid: int) -> list[int]:
    """Ids of the processes that `pid` started; none where it is gone."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def living_ranks(controller: int) -> dict[int, int]:
    """Process ids by rank, of the ranks that are alive."""
    found = {}
    for pid in children(controller):
        with contextlib.suppress(OSError, ValueError, IndexError):  # a process that has just ended has no environment
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            found[int(environment.split(b"SUBMITIT_LOCAL_GLOBALID=")[1].split(b"\0")[0])] = pid
    return found


def outcome_of(job: Job, rank: int) -> dict[str, str]:
    """The outcome of a rank that has ended; its state is "lost" where it left none."""
    file = job.task(rank).paths.result_pickle
    if not file.exists():
        return {"state": "lost", "message": ""}
    # Job.result would wait for all ranks, and 15 seconds for a rank that died without a result.
    kind, outcome = pickle_load(file)
    return outcome if kind == "success" else {"state": "failed", "message": outcome}


class Watch:
    """Watches the ranks of `job` until they are at work, and ends them all where one ends badly before that."""

    def __init__(self, job: Job, controller: int):
        self.job, self.controller = job, controller
        self.started, self.bad_since = False, 0.0
        self.killed: set[int] = set()
        """Ranks that this watch ended: not they are to blame."""

    def look(self) -> None:
        """Look at the ranks once. Call this again and again while the stage has not begun its work."""
        alive = living_ranks(self.controller)
        if not self.started:  # the controller starts all of them at once
            self.started = bool(alive)
            return
        ended = [rank for rank in range(self.job.num_tasks) if rank not in alive]
        if not alive or all(outcome_of(self.job, rank)["state"] in GOOD for rank in ended):
            return
        self.bad_since = self.bad_since or time.monotonic()
        if time.monotonic() - self.bad_since >= PATIENCE_S:
            self.killed |= alive.keys()
            for pid in alive.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
