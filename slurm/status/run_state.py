"""Find the state of one run, from its files and its jobs in SLURM's queue: two or three small files a run."""

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import UserError
from jobs.run.directory import MOST_SPEC_BYTES, RunDir
from jobs.run.failures import Failure
from jobs.run.records import EvaluationFile, ProgressFile
from jobs.spec.references import Reference
from jobs.spec.stages import STAGES
from jobs.storage.files import read_bytes
from jobs.storage.machine import is_gone
from jobs.storage.typed import read_if_whole
from slurm.launch.squeue import Job

HUNG_S = 300  # a stage writes its heartbeat once a second, whatever it does
STILL_S = 3600  # a stage that lives, but finishes no step for so long, waits for what does not come
NEXT_STAGE_S = 30  # `iddpm run` starts the next stage within this time


@dataclass(frozen=True)
class RunStatus:
    run: str
    state: str
    """done, running, hung, pending, held, interrupted, failed, stopped (neither done nor in the queue), new, left (the
    sweep no longer has the run, and nothing is left to wait for), or unknown (the queue does not answer)."""
    stage: str | None
    """The first stage that is not done."""
    job: str | None
    """The job in the queue, else the last job of this stage."""
    slurm: str
    """SLURM's name for the state of the job."""
    reason: str
    """SLURM's reason why the job waits."""
    node: str
    restarts: int | None
    done: int | None
    """Progress of the stage: `done` of `total`, in `unit`."""
    total: int | None
    unit: str
    rate: float | None
    """Units per second."""
    loss: float | None
    eta_s: float | None
    """Seconds left in this stage."""
    heartbeat_s: float | None
    """Seconds since the stage last wrote its progress."""
    samples: int | None
    """Finished samples of the main sampling."""
    metrics: dict[str, float]
    failure: Failure | None
    of_plan: float | None = None
    """Measured over planned time per step: 1.2 is a fifth slower than planned."""
    waits_for: tuple[Reference, ...] = ()
    """The runs that must do a stage before `stage` can start."""
    doing: str = ""
    """What the stage does while it finishes no step, such as reading the data."""
    skipped: int | None = None
    """Of an evaluated run: training steps that were skipped, because their gradient was not finite."""
    remarks: tuple[str, ...] = ()
    """The run's files that cannot be read, and why."""
    shares: str | None = None
    """The run whose training this run shares; None where it has its own."""


@dataclass(frozen=True)
class StageJob:
    """The job of one stage of one run: the one in the queue, else the last that was submitted."""

    job_id: str
    logs: Path
    """Folder of its logs."""


def run_status(run: RunDir, jobs: Mapping[str, StageJob], live: Mapping[str, Job] | None,
               planned: Mapping[str, float]) -> RunStatus:
    """`jobs`: the run's jobs by stage. `live`: the queue; None if unknown. `planned`: seconds per step by stage."""
    queued = {stage: live[job.job_id] for stage, job in jobs.items() if job.job_id in live} if live else {}
    remarks: list[str] = []
    shares = run.shares
    evaluation = None if queued else read_if_whole(run.evaluation, EvaluationFile, remarks)
    failure = read_if_whole(run.path / "failure.json", Failure, remarks)
    if evaluation is not None:
        return _evaluated(run, evaluation, failure, remarks, shares)
    progress = read_if_whole(run.progress, ProgressFile, remarks)
    stage = _stage(run, progress, remarks, STAGES[1] if shares else STAGES[0])
    ours = progress if progress and progress.stage == stage else None
    job = queued.get(stage) or next(iter(queued.values()), None)
    failure = failure if job is None or job.state == "COMPLETING" else None
    now = time.time()
    age = max(now - ours.heartbeat, 0.0) if ours else None  # the clock of a node may be ahead of ours
    state = "failed" if failure else _state(progress, job, bool(jobs), live is not None)
    if job and job.state == "RUNNING" and min(age if age is not None else now, now - (job.started or now)) > HUNG_S:
        state = "hung"
    still = now - ours.advanced if ours and ours.advanced and not ours.doing else 0.0
    if state == "running" and still > STILL_S:
        state, age = "hung", still
    rate = ours.rate if ours and state == "running" else None
    left = ours.left_s if ours and rate else None
    if ours and rate and left is not None and left < 0:
        left = ((ours.total or 0) - (ours.done or 0)) / rate
    last = job.id if job else jobs[stage].job_id if stage in jobs else None
    node = job.node if job else failure.host if failure else ""
    of_plan = 1 / (rate * planned[stage]) if rate and planned.get(stage) else None
    done, total, unit = (ours.done, ours.total, ours.unit) if ours else (None, None, "")
    return RunStatus(run.path.name, state, stage, last, job.state if job else "", job.reason if job else "", node,
                     job.restarts if job else None, done, total, unit, rate, ours.loss if ours else None,
                     left, age, _samples(run) if stage != STAGES[0] and run.has_stage("sample") else None, {}, failure,
                     of_plan, doing=ours.doing if ours and state == "running" else "", remarks=tuple(remarks),
                     shares=shares)


def _evaluated(run: RunDir, evaluation: EvaluationFile, failure: Failure | None, remarks: list[str],
               shares: str | None) -> RunStatus:
    """The status of a run with an evaluation.json: done, unless a later evaluation, such as of another metric, failed."""
    if failure is None or failure.time < run.evaluation.stat().st_mtime:
        failure = None
    metrics = {name: value for name, value in evaluation.headline.items() if value is not None}
    return RunStatus(run.path.name, "failed" if failure else "done", failure.stage if failure else None, None, "", "",
                     failure.host if failure else "", None, None, None, "", None, None, None, None,
                     evaluation.samples, metrics, failure, skipped=evaluation.skipped_steps, remarks=tuple(remarks),
                     shares=shares)


def _stage(run: RunDir, progress: ProgressFile | None, remarks: list[str], first: str) -> str:
    """The first stage that is not done. progress.json often answers without a look at checkpoints and samples.

    `first`: the first stage that the run has of its own.
    """
    began = progress.stage if progress else first
    for stage in STAGES[STAGES.index(began):]:
        if progress and stage == began:
            if progress.state != "done" and not (_is_silent(progress) and _is_done(run, stage, remarks)):
                return stage
        elif not _is_done(run, stage, remarks):
            return stage
    return STAGES[-1]


def _is_silent(progress: ProgressFile) -> bool:
    """Whether the stage ended without its last report: killed after its last result, or on a full disk."""
    return progress.state == "running" and (time.time() - progress.heartbeat > HUNG_S or is_gone(progress.machine, progress.pid))


def _is_done(run: RunDir, stage: str, remarks: list[str]) -> bool:
    try:
        return run.is_done(stage)
    except (UserError, OSError) as error:  # a damaged spec, or a folder that cannot be read
        remarks.append(str(error) if isinstance(error, UserError) else f"{error.filename}: not readable ({error.strerror})")
        return False


def _state(progress: ProgressFile | None, job: Job | None, submitted: bool, queue_known: bool) -> str:
    """Return the state of a run. `progress` is of the current stage or, if that has not started, of the finished one before."""
    recorded_state = progress.state if progress else "new"
    if job and job.state == "COMPLETING" and recorded_state in ("interrupted", "failed"):
        return recorded_state
    if job and job.state == "PENDING":
        return "held" if job.is_held else "pending"
    if job:
        return "running" if job.state in ("RUNNING", "COMPLETING") else "pending"  # SUSPENDED, CONFIGURING, REQUEUED, ...
    if recorded_state in ("interrupted", "failed"):
        return recorded_state
    if progress and (not submitted or not queue_known):
        works = recorded_state == "running" and not is_gone(progress.machine, progress.pid)
        follows = recorded_state == "done" and progress.followed
        if time.time() - progress.heartbeat < (HUNG_S if works else NEXT_STAGE_S if follows else 0):
            return "running"
    if submitted:
        return "stopped" if queue_known else "unknown"
    return "stopped" if progress else "new"


def _samples(run: RunDir) -> int:
    """Count the samples in the finished chunks of the main sampling: from file names and two numbers of the frozen spec."""
    try:
        with os.scandir(run.samples) as entries:
            chunks = sum(entry.name.startswith("chunk-") for entry in entries)
        # By regular expression because the YAML parser takes 10 ms a run: 100 s for ten thousand runs. This is safe because
        # jobs.spec.reading.frozen.dump wrote the file: always a field a line, with plain numbers.
        section = read_bytes(run.spec_file, MOST_SPEC_BYTES).decode("utf-8").split("\nsample:\n", 1)[1]
        count, batch = (int(re.findall(rf"^  {field}: (\d+)$", section, re.M)[0]) for field in ("num_samples", "batch_size"))
    except (OSError, LookupError, ValueError, UserError):
        return 0
    return min(count, chunks * batch)
