"""Ask SLURM about our jobs: squeue for waiting and running ones, sacct for ended ones. One call answers for all jobs."""

import itertools
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from jobs.errors import StageFailed, UserError

QUEUE_S, ACCOUNTS_S = 10, 60  # seconds between two questions of `status --watch`: all users share the controller
END_OF_NAME = "|.end-of-name.|"
# Programs of SLURM, sbatch among them, prefer these variables to what they are told: filters and forms of lists, and options of
# an enclosing job, which srun would inherit.
STEERING = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SACCTMGR_", "SCANCEL_", "SCONTROL_", "SINFO_", "SALLOC_", "SRUN_")
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")  # where the cluster is
# Sites have users set these instead of a profile. Option of sbatch by variable.
DEFAULTS = {f"SBATCH_{option.upper()}": option
            for option in ("account", "partition", "qos", "reservation", "constraint", "wckey")}
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
    """Run one of SLURM's commands, with `text` as its input; return its output. Raises StageFailed with its error message.

    Bytes that are not UTF-8, as in the names of other jobs, become question marks.
    """
    environment = slurm_environment(text)
    try:
        done = subprocess.run(arguments, input=text, capture_output=True, encoding="utf-8", errors="replace", timeout=120,
                              env=environment)
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


def slurm_environment(script: str | None = None) -> dict[str, str]:
    """The environment for SLURM's programs: without the variables by which users and jobs steer them.

    `script`: what sbatch will get. Of DEFAULTS those stay whose option the script does not give.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(STEERING) or key in KEPT}
    if "," in kept.get("SLURM_CLUSTERS", "") or kept.get("SLURM_CLUSTERS") == "all":
        del kept["SLURM_CLUSTERS"]  # ids of jobs would belong to one of several clusters
    # Without this variable SLURM shortens long lists of array elements: 12_[0-3,5,...].
    return kept | _defaults_for(script) | {"SLURM_BITSTR_LEN": "0"}


@contextmanager
def sbatch_environment(script: str) -> Iterator[None]:
    """Give this process the environment for `sbatch` of `script` while the block lasts: submitit calls sbatch with its own.

    The job gets this environment, too.
    """
    before = dict(os.environ)
    wanted = slurm_environment(script)
    try:
        os.environ.clear()
        os.environ.update(wanted)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _defaults_for(script: str | None) -> dict[str, str]:
    return {key: os.environ[key] for key, option in DEFAULTS.items()
            if script is not None and os.environ.get(key) and f"\n#SBATCH --{option}" not in script}


def left_out(scripts: Collection[str]) -> str:
    """A note that names the variables SBATCH_* of the environment that sbatch of `scripts` is not given; empty without any."""
    names = scripts and sorted(key for key in os.environ if key.startswith("SBATCH_")
                               and not all(key in _defaults_for(script) for script in scripts))
    return f"{', '.join(names)} of your environment left out: the spec and the cluster profile say what the jobs ask for" \
        if names else ""


def live_jobs() -> dict[str, Job]:
    """All of the user's jobs in the queue, by id; each element of an array has its own id (12_3). One call of squeue."""
    # "Field:|" prints the whole field, whatever its length, and | after it. The name comes last, and a mark after it: the names
    # of other jobs may hold anything, also | and newlines.
    fields = f"JobArrayID:|,State:|,Reason:|,NodeList:|,RestartCnt:|,StartTime:|,Name:{END_OF_NAME}"
    entries = command("squeue", "--me", "--noheader", "--array", f"--Format={fields}").split(f"{END_OF_NAME}\n")
    jobs = [_live(*entry.split("|", 6)) for entry in entries if entry.count("|") >= 6]
    return {job.id: job for job in jobs}


def _live(id: str, state: str, reason: str, node: str, restarts: str, start: str, name: str) -> Job:
    try:  # a waiting job may have a start time, too: SLURM's estimate
        started = datetime.fromisoformat(start.strip()).timestamp() if state == "RUNNING" else None
    except ValueError:
        started = None
    return Job(id.strip(), name, state, reason, node, int(restarts) if restarts.strip().isdecimal() else 0, started)


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
        if line.count("|") != 4:  # a message of the site
            continue
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
