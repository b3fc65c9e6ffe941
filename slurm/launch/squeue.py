"""What SLURM knows of our jobs: squeue for those that wait or run, sacct for those that ended; one call for everything."""

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

QUEUE_S, ACCOUNTS_S = 10, 60  # `status --watch` asks no more often; the controller is everybody's


@dataclass(frozen=True)
class Job:
    """One job or array element that is pending or running."""

    id: str
    name: str
    state: str
    reason: str
    node: str
    restarts: int = 0
    started: float | None = None
    """Seconds since the epoch; of one that waits, None."""


@dataclass(frozen=True)
class EndedJob:
    """What the accounts have of one job or array element."""

    id: str
    state: str
    """SLURM's word: COMPLETED, FAILED, TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, CANCELLED, ...; for a live one RUNNING or PENDING."""
    exit_code: str
    """CODE:SIGNAL."""
    elapsed: str
    node: str

    @property
    def was_killed(self) -> bool:
        """By SIGKILL. SLURM 22.05 writes a shell's 137 (128 + 9) as 9:0."""
        code, _, signal = self.exit_code.partition(":")
        return signal == "9" or code in ("9", "137")


def needs_slurm() -> None:
    """Raises UserError where there is no SLURM."""
    if not shutil.which("sbatch"):
        raise UserError("no SLURM here (sbatch is not on the PATH): `iddpm run` does the same on this machine, "
                        "`iddpm cluster up` starts a SLURM to try")


def command(*arguments: str, text: str | None = None) -> str:
    """Output of one of SLURM's commands. Raises StageFailed with what it complained of."""
    # Without the variable long lists of array elements are cut: 12_[0-3,5,...].
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
    """All of the user's jobs in the queue by id, array elements each by their own (12_3). One call of squeue."""
    # "Field:|": no width to cut at, and | after it.
    fields = "JobArrayID:|,Name:|,State:|,Reason:|,NodeList:|,RestartCnt:|,StartTime:"
    lines = command("squeue", "--me", "--noheader", "--array", f"--Format={fields}").splitlines()
    jobs = [_live(*line.split("|")) for line in lines if line.strip()]
    return {job.id: job for job in jobs}


def _live(id: str, name: str, state: str, reason: str, node: str, restarts: str, start: str) -> Job:
    # A job that waits may have an estimated start.
    started = datetime.fromisoformat(start.strip()).timestamp() if state == "RUNNING" and start[:1].isdigit() else None
    return Job(id.strip(), name, state, reason, node, int(restarts), started)


def ended_jobs(ids: Collection[str]) -> dict[str, EndedJob]:
    """What the accounts have of these jobs, and of all elements of those that are arrays. One call of sacct.

    `ids` without elements: 12, not 12_3. Raises StageFailed on a cluster without accounting.
    """
    if not ids:
        return {}
    lines = command("sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={','.join(sorted(ids))}",
                    "--format=JobID,State,ExitCode,Elapsed,NodeList").splitlines()
    jobs = {}
    for line in lines:
        id, state, exit_code, elapsed, node = line.split("|")
        for element in elements(id):  # "CANCELLED by 0" is a word and more
            jobs[element] = EndedJob(element, state.split()[0], exit_code, elapsed, "" if node == "None assigned" else node)
    return jobs


def compact(ids: Iterable[str]) -> list[str]:
    """Job ids as SLURM's commands take them, the elements of an array together: 7, 12_[0-3,5]."""
    arrays: dict[str, list[int]] = {}
    for id in ids:
        base, _, element = id.partition("_")
        arrays.setdefault(base, []).extend([int(element)] if element else [])
    return [f"{base}_[{','.join(_ranges(sorted(elements)))}]" if elements else base for base, elements in arrays.items()]


def _ranges(numbers: list[int]) -> Iterator[str]:
    """Ascending `numbers` as 0-3 and 5."""
    for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield f"{members[0]}-{members[-1]}" if len(members) > 1 else str(members[0])


def elements(id: str) -> Iterator[str]:
    """12 and 12_3 themselves; of elements that SLURM lists together, 12_[0,4-9:2%2], each."""
    base, bracket, ranges = id.partition("_[")
    if not bracket:
        yield id
        return
    for first, last, step in re.findall(r"(\d+)(?:-(\d+)(?::(\d+))?)?", ranges.partition("%")[0]):
        for index in range(int(first), int(last or first) + 1, int(step or 1)):
            yield f"{base}_{index}"


class Slurm:
    """The same for one who looks again and again: each is asked for anew only when it is old."""

    def __init__(self) -> None:
        self._live: tuple[float, dict[str, Job] | None] = (-math.inf, None)
        self._ended: tuple[float, dict[str, EndedJob]] = (-math.inf, {})
        self.trouble = ""
        """Why the queue is not known, in a line."""

    def live(self) -> dict[str, Job] | None:
        """None where the queue does not answer."""
        if time.monotonic() - self._live[0] >= QUEUE_S:
            try:
                jobs, self.trouble = live_jobs(), ""
            except StageFailed as error:
                jobs, self.trouble = None, str(error).splitlines()[0]
            self._live = (time.monotonic(), jobs)
        return self._live[1]

    def ended(self, ids: Collection[str]) -> dict[str, EndedJob]:
        """Empty without accounting."""
        if ids and time.monotonic() - self._ended[0] >= ACCOUNTS_S:
            try:
                jobs = ended_jobs(ids)
            except StageFailed:
                jobs = {}
            self._ended = (time.monotonic(), jobs)
        return self._ended[1]
