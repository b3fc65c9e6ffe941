"""Ask SLURM about our jobs: squeue for waiting and running ones, sacct for ended ones. One call answers for all jobs."""

import itertools
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from jobs.errors import StageFailed, UserError

QUEUE_S, ACCOUNTS_S = 10, 60  # seconds between two questions of `status --watch`: all users share the controller
HELD_REASONS = ("JobHeldUser", "JobHeldAdmin")


@dataclass(frozen=True)
class Job:
    """One job, or one element of an array, in the queue."""

    id: str
    name: str
    state: str
    reason: str
    node: str
    restarts: int = 0
    started: float | None = None
    """Seconds since the epoch; None unless the job runs."""

    @property
    def is_held(self) -> bool:
        return self.reason in HELD_REASONS


@dataclass(frozen=True)
class EndedJob:
    """What SLURM's accounting has recorded of one job, or of one element of an array."""

    id: str
    state: str
    """SLURM's name: COMPLETED, FAILED, TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, CANCELLED, ...; RUNNING or PENDING before the end."""
    exit_code: str
    """CODE:SIGNAL."""
    elapsed: str
    node: str

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended the job. A shell reports 137 (128 + 9), which SLURM 22.05 writes as 9:0."""
        code, _, signal = self.exit_code.partition(":")
        return signal == "9" or code in ("9", "137")


def needs_slurm() -> None:
    """Raise UserError if there is no SLURM on this machine."""
    if not shutil.which("sbatch"):
        raise UserError("no SLURM here (sbatch is not on the PATH): `iddpm run` does the same work on this machine, "
                        "`iddpm cluster up` starts a SLURM to try")


def command(*arguments: str, text: str | None = None) -> str:
    """Run one of SLURM's commands, with `text` as its input; return its output. Raises StageFailed with its error message."""
    # Without this variable SLURM shortens long lists of array elements: 12_[0-3,5,...].
    environment = os.environ | {"SLURM_BITSTR_LEN": "0"}
    try:
        done = subprocess.run(arguments, input=text, capture_output=True, text=True, timeout=120, env=environment)
    except FileNotFoundError as error:
        raise StageFailed(f"{arguments[0]}: not on the PATH") from error
    except subprocess.TimeoutExpired as error:
        raise StageFailed(f"{arguments[0]}: no answer in 120 s") from error
    if "configuration source" in done.stderr:
        raise StageFailed("SLURM does not find its configuration; for the cluster that `iddpm cluster up` starts: "
                          'eval "$(iddpm cluster up)"')
    if done.returncode:
        raise StageFailed(f"{' '.join(arguments[:2])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def live_jobs() -> dict[str, Job]:
    """All of the user's jobs in the queue, by id; each element of an array has its own id (12_3). One call of squeue."""
    # "Field:|" prints the whole field, whatever its length, and | after it.
    fields = "JobArrayID:|,Name:|,State:|,Reason:|,NodeList:|,RestartCnt:|,StartTime:"
    lines = command("squeue", "--me", "--noheader", "--array", f"--Format={fields}").splitlines()
    jobs = [_live(*line.split("|")) for line in lines if line.strip()]
    return {job.id: job for job in jobs}


def _live(id: str, name: str, state: str, reason: str, node: str, restarts: str, start: str) -> Job:
    # A waiting job may have a start time, too: SLURM's estimate.
    started = datetime.fromisoformat(start.strip()).timestamp() if state == "RUNNING" and start[:1].isdigit() else None
    return Job(id.strip(), name, state, reason, node, int(restarts), started)


def ended_jobs(ids: Collection[str]) -> dict[str, EndedJob]:
    """Accounting records by job id, for these jobs and all elements of these arrays. One call of sacct.

    `ids` are without elements: 12, not 12_3. Raises StageFailed on a cluster without accounting.
    """
    if not ids:
        return {}
    lines = command("sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={','.join(sorted(ids))}",
                    "--format=JobID,State,ExitCode,Elapsed,NodeList").splitlines()
    jobs = {}
    for line in lines:
        id, state, exit_code, elapsed, node = line.split("|")
        state = state.split()[0]  # "CANCELLED by 0" names the user as well
        for element in elements(id):
            jobs[element] = EndedJob(element, state, exit_code, elapsed, "" if node == "None assigned" else node)
    return jobs


def compact(ids: Iterable[str]) -> list[str]:
    """Job ids as SLURM's commands take them, with the elements of each array joined: 7, 12_[0-3,5]."""
    arrays: dict[str, list[int]] = {}
    for id in ids:
        base, _, element = id.partition("_")
        arrays.setdefault(base, []).extend([int(element)] if element else [])
    return [f"{base}_[{','.join(_ranges(sorted(elements)))}]" if elements else base for base, elements in arrays.items()]


def _ranges(numbers: list[int]) -> Iterator[str]:
    """Ascending `numbers` as ranges: 0-3, 5."""
    for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield f"{members[0]}-{members[-1]}" if len(members) > 1 else str(members[0])


def elements(id: str) -> Iterator[str]:
    """The ids in one of SLURM's lists: 12_[0,4-6:2%2] gives 12_0, 12_4 and 12_6; a single id (12, 12_3) gives itself."""
    base, bracket, ranges = id.partition("_[")
    if not bracket:
        yield id
        return
    for first, last, step in re.findall(r"(\d+)(?:-(\d+)(?::(\d+))?)?", ranges.partition("%")[0]):
        for index in range(int(first), int(last or first) + 1, int(step or 1)):
            yield f"{base}_{index}"


class Slurm:
    """Caches squeue for QUEUE_S seconds and sacct for ACCOUNTS_S seconds, for `status --watch` and `logs -f`."""

    def __init__(self) -> None:
        self._live: tuple[float, dict[str, Job] | None] = (-math.inf, None)
        self._ended: tuple[float, dict[str, EndedJob]] = (-math.inf, {})
        self.trouble = ""
        """Why the queue is not known: one line; empty if squeue answered."""

    def live(self) -> dict[str, Job] | None:
        """The jobs in the queue by id; None if squeue does not answer."""
        if time.monotonic() - self._live[0] >= QUEUE_S:
            try:
                jobs, self.trouble = live_jobs(), ""
            except StageFailed as error:
                jobs, self.trouble = None, str(error).splitlines()[0]
            self._live = (time.monotonic(), jobs)
        return self._live[1]

    def ended(self, ids: Collection[str]) -> dict[str, EndedJob]:
        """Accounting records by job id, as `ended_jobs` returns them; empty on a cluster without accounting."""
        if ids and time.monotonic() - self._ended[0] >= ACCOUNTS_S:
            try:
                jobs = ended_jobs(ids)
            except StageFailed:
                jobs = {}
            self._ended = (time.monotonic(), jobs)
        return self._ended[1]
