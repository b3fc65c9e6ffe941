"""`iddpm logs`: print the newest log of a run, and follow the run from stage to stage.

submitit names the files: study/logs/SUBMISSION/JOB_RANK_log.out on SLURM (JOB is 12, or 12_3 in an array; rank 0's file also
has SLURM's own messages), run/logs/STAGE/PROCESS/PROCESS_RANK_log.out on this machine. A requeued job appends to its file.
"""

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from jobs.errors import UserError
from jobs.run.records import ProgressFile
from jobs.run.study.study_file import study_as_found
from jobs.spec.stages import STAGES
from jobs.storage.typed import read_record
from jobs.terminal import steered
from slurm.launch.records import Submission, recorded, study_and_run
from slurm.launch.squeue import Job, Slurm

POLL_S = 1.0
QUIET_S = 10.0  # a running stage writes a heartbeat, and the next stage starts, within this time
TAIL_BYTES = 4096
COPIED_BYTES = 1 << 24  # at once


@dataclass(frozen=True)
class Log:
    file: Path
    stage: str
    process: str
    """Id of SLURM's job, or of the process on this machine."""
    local: bool
    """Whether the stage ran by `iddpm run`, without SLURM."""


def print_log(path: Path, stage: str | None, rank: int, follow: bool) -> None:
    """Print the newest log of the run at `path`, of `stage` or of any; with `follow`, also what later comes.

    Raises UserError if `path` is not a run (or a study with one run), or if there is no such log.
    """
    study, run = run_of(path)
    slurm = Slurm()
    log = newest_log(study, run, stage, rank)
    if not log and not (follow and live_jobs_of(study, run, stage, slurm)):
        raise UserError(f"{study / run}: no log{f' of {stage}' if stage else ''}{f' of rank {rank}' if rank else ''} yet; "
                        + other_logs(study, run, slurm))
    if log and not follow:
        _announce(log)
        with open(log.file, "rb") as file:
            while _copy(file):
                pass
        return
    try:
        _follow(study, run, stage, rank, slurm)
    except KeyboardInterrupt:
        pass


def run_of(path: Path) -> tuple[Path, str]:
    """(folder of the study, name of the run) for the folder of a run, or of a study with one run. Raises UserError."""
    study, run = study_and_run(path)
    if run is None:
        names = list(study_as_found(study)[0].runs)
        if len(names) != 1:
            raise UserError(f"{path}: a study of {len(names):,} runs; name one of them, such as {path / names[0]}")
        run = names[0]
    return study, run


def newest_log(study: Path, run: str, stage: str | None, rank: int) -> Log | None:
    """The log of `stage`, or of any stage for None, that was changed last."""
    found = [Log(study / "logs" / submission.name / f"{job}_{rank}_log.out", submission.stage, job, local=False)
             for submission, job in _jobs_of(study, run, stage)]
    for each in STAGES if stage is None else (stage,):
        found += [Log(file, each, file.parent.name, local=True)
                  for file in (study / run / "logs" / each).glob(f"*/*_{rank}_log.out")]
    return max((log for log in found if log.file.is_file()), key=lambda log: log.file.stat().st_mtime, default=None)


def live_jobs_of(study: Path, run: str, stage: str | None, slurm: Slurm) -> list[Job]:
    """The run's jobs in the queue, in the order of their submission; an empty list if the queue does not answer."""
    submitted = list(_jobs_of(study, run, stage))
    live = slurm.live() or {} if submitted else {}
    return [live[job] for _, job in submitted if job in live]


def _jobs_of(study: Path, run: str, stage: str | None) -> Iterator[tuple[Submission, str]]:
    for submission in recorded(study, {}, damaged=[]):
        if submission.job_id and run in submission.runs and stage in (None, submission.stage):
            yield submission, submission.element(submission.runs.index(run))


def other_logs(study: Path, run: str, slurm: Slurm) -> str:
    """A hint for the message that a log does not exist: the stages with a log, or the waiting job."""
    with_log = [stage for stage in STAGES if newest_log(study, run, stage, 0)]
    if with_log:
        return f"there are logs of {', '.join(with_log)}, rank 0"
    jobs = live_jobs_of(study, run, None, slurm)
    if jobs:
        return f"job {jobs[0].id} is {jobs[0].state.lower()} ({jobs[0].reason}); -f waits for its log"
    return "none of its stages has started: `iddpm submit` or `iddpm run`"


def _follow(study: Path, run: str, stage: str | None, rank: int, slurm: Slurm) -> None:
    """Print the newest log and whatever is appended to it, then the next log, until the run is no longer active."""
    log, file, last_active = None, None, time.monotonic()
    with contextlib.ExitStack() as opened:
        while time.monotonic() - last_active < QUIET_S:
            newest = newest_log(study, run, stage, rank)
            if newest and newest != log:
                if file:
                    _copy(file)
                log, file = newest, opened.enter_context(open(newest.file, "rb"))
                _announce(log)
            while file and _copy(file):
                last_active = time.monotonic()
                time.sleep(POLL_S)
            if _is_active(study, run, stage, log, slurm):
                last_active = time.monotonic()
            elif not (log and log.local and stage is None) or _is_over(study / run):
                if file:  # the stage may have written more between our last look and its end
                    _copy(file)
                break
            time.sleep(POLL_S)


def _is_active(study: Path, run: str, stage: str | None, log: Log | None, slurm: Slurm) -> bool:
    if log and log.local and _runs_here(log.process):
        return True
    if live_jobs_of(study, run, stage, slurm):
        return True
    try:  # the stage may run on another machine, or the queue may not answer
        progress = read_record(study / run / "progress.json", ProgressFile)
    except (OSError, UserError):
        return False
    return progress.state == "running" and time.time() - progress.heartbeat < QUIET_S


def _runs_here(process: str) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # a zombie: its parent has not collected the exit status, and may never do so


def _is_over(run: Path) -> bool:
    """Whether `iddpm run` will not start another stage of the run."""
    try:
        progress = run / "progress.json"
        return ((run / "evaluation.json").exists()
                or read_record(progress, ProgressFile).state in ("interrupted", "failed"))
    except (OSError, UserError):
        return False


def _copy(file: BinaryIO) -> bool:
    """Print the rest of `file`, from the beginning if the file has become shorter. Returns whether there was anything.

    A pipe gets the log as it is. A terminal gets lines without colors and moves of the cursor, as it must not obey a log.
    """
    if os.fstat(file.fileno()).st_size < file.tell():
        file.seek(0)
    text = file.read(COPIED_BYTES)
    if sys.stdout.isatty():
        lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode("utf-8", errors="replace"))
        sys.stdout.write(steered(re.sub(r"\r+\n?", "\n", lines)))
        sys.stdout.flush()
    else:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    return bool(text)


def _announce(log: Log) -> None:
    print(f"==> {log.stage}: {log.file} <==", file=sys.stderr, flush=True)


def end_of_log(log: Path) -> str:
    """The last 4 KB of a log, without earlier attempts of the job; empty if there is no log."""
    if not os.path.isfile(log):
        return ""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return text.rpartition("Starting with JobEnvironment")[2]  # submitit's first line of an attempt
