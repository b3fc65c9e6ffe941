"""What a job's Python asks of its batch script, which runs on the host: a file that batch.sh reads after srun.

Python may run in a container, where scontrol is not. So the ranks never call SLURM's programs.
"""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from jobs.errors import StageFailed
from jobs.parallel.devices import node_name
from jobs.run.failures import describe
from jobs.storage.files import json_text, write_text

# Set by the batch script where the profile says requeue: false. The first is 0, or the number of the follow-up that this job is.
FOLLOW_UP, FOLLOW_UPS = "IDDPM_FOLLOW_UP", "IDDPM_FOLLOW_UPS"
REASON = "SCONTROL_SAID"  # batch.sh puts scontrol's message here


def ask_requeue(run: Path, stage: str, done: int | None, now: bool = False) -> None:
    """Ask to put this job back into the queue; `now`: even if srun has not ended, because a node died.

    Also prepares the run's failure.json, for a site that allows no requeue.
    """
    refused = StageFailed(f"{run}: {stage} is saved, but SLURM does not let this job go back into the queue ({REASON})",
                          kind="no requeue")
    failure = describe(refused, stage, done, node_name(), 0)
    write_text(run / ".refused.json", json_text(asdict(failure)))
    _ask("requeue-now" if now else "requeue", str(run.resolve()))


def is_follow_up() -> bool:
    """Whether this job stands behind another one of the same stage."""
    return os.environ.get(FOLLOW_UP, "0") != "0"


def follow_ups() -> int | None:
    """How many follow-up jobs stand behind this job; None where SLURM may put this job back into the queue."""
    left = os.environ.get(FOLLOW_UPS)
    return None if left is None else int(left)


def ask_success() -> None:
    """Ask to end with success, although the stage is not done: the follow-up job behind this one resumes it."""
    _ask("saved")


def ask_wait() -> None:
    """Ask to wait until SLURM ends this job: after scancel, or a preemption that requeues the job by itself."""
    _ask("wait")


def ask_hold(study: Path, held: dict, jobs: Iterable[str], reports: Iterable[str]) -> None:
    """Ask to hold the pending ones of `jobs` (ids of jobs and arrays), to let `reports` start, and to write held.json."""
    write_text(_file(".held"), json_text(held))
    _ask("hold", str(study.resolve()), " ".join(jobs), " ".join(reports), replace=True)


def ask_nothing() -> None:
    """Withdraw a request to requeue by another rank: this rank failed, and the job has failed."""
    _ask("", replace=True)


def _file(suffix: str = "") -> Path:
    """batch.sh names the file by the job and by how often the job was restarted."""
    return Path(os.environ["IDDPM_REQUEST"] + suffix)


def _ask(*lines: str, replace: bool = False) -> None:
    """Write a request; the first rank's counts, unless `replace`."""
    with contextlib.suppress(FileExistsError), open(_file(), "w" if replace else "x", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
