"""Where every run of a study stands: from its files, SLURM's queue and, for what ended without a word, SLURM's accounts.

Made for studies of ten thousand runs: one squeue, at most one sacct, and two or three small files a run.
"""

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.run.failures import Failure, kind_of, read_failure
from jobs.spec.sections import STAGES
from jobs.storage.files import read_json
from slurm.launch.records import Submission, recorded
from slurm.launch.squeue import EndedJob, Job, Slurm
from slurm.status.logs import last_words

HUNG_S = 300  # a stage writes its heartbeat each second or at each step, whichever is slower
NEXT_STAGE_S = 30  # `iddpm run` begins the next stage within it
LOGS_READ = 100  # at most, of runs whose end nothing else tells
HELD = ("JobHeldUser", "JobHeldAdmin")


@dataclass(frozen=True)
class RunStatus:
    run: str
    state: str
    """done, running, hung, pending, held, interrupted, failed, stopped (neither done nor in the queue), new; unknown where the
    queue does not answer."""
    stage: str | None
    """The first that is not done."""
    job: str | None
    """Its job in the queue; else the last it had."""
    slurm: str
    """SLURM's word for the job's state."""
    reason: str
    node: str
    restarts: int | None
    done: int | None
    total: int | None
    unit: str
    rate: float | None
    loss: float | None
    eta_s: float | None
    heartbeat_s: float | None
    samples: int | None
    """Finished samples of the main sampling."""
    metrics: dict[str, float]
    failure: Failure | None
    of_plan: float | None = None
    """How many times as long as planned its steps take."""


@dataclass(frozen=True)
class StudyStatus:
    path: Path
    runs: list[RunStatus]
    """In the order of study.json."""
    held: dict | None
    """held.json: why the rest of the study was put on hold."""
    notes: list[str]


@dataclass(frozen=True)
class Place:
    """The job of one stage of one run: the one in the queue, else the last that was submitted."""

    job_id: str
    logs: Path


def find_study(study: Path | None, runs_folder: Path) -> Path:
    """`study` as a path or as a name in `runs_folder`; without one, the study there that changed last. Raises UserError."""
    if study is None:
        studies = [file.parent for file in runs_folder.glob("*/study.json")]
        if not studies:
            raise UserError(f"{runs_folder}: no study here; `iddpm run SPEC` and `iddpm submit SPEC` make them, --runs names "
                            "another folder")
        return studies[0] if len(studies) == 1 else max(studies, key=_changed)
    for path in (study, runs_folder / study):
        if (path / "study.json").is_file():
            return path
    raise UserError(f"{study}: not a study's directory (it has no study.json); they lie in {runs_folder}/")


def _changed(study: Path) -> float:
    """When something in it, or in the folder of a run, was last renamed or made: every heartbeat is."""
    with os.scandir(study) as entries:
        return max(entry.stat().st_mtime for entry in entries)


def study_status(study: Path, slurm: Slurm) -> StudyStatus:
    """Raises UserError where study.json is damaged."""
    names, notes = list(read_json(study / "study.json")["runs"]), []
    submitted = (study / "submissions").is_dir()
    live = slurm.live() if submitted else {}
    if live is None:
        notes.append(f"note: SLURM's queue does not answer, this is from files alone: {slurm.trouble}")
    submissions = recorded(study, live or {}) if submitted else []
    for submission in submissions:
        if not submission.runs and (job := (live or {}).get(submission.job_id or "")):
            notes.append(f"report: job {job.id} {job.state.lower()}{f' ({job.reason})' if job.state == 'PENDING' else ''}")
    places = jobs_of(study, submissions, live or {})
    planned = (_read(study / "plan.json") or {}).get("seconds_per_step", {})
    runs = [run_status(RunDir(study / name), {stage: places[name, stage] for stage in STAGES if (name, stage) in places}, live,
                       planned.get(name, {})) for name in names]
    if live is not None:
        runs = with_ends(runs, places, slurm)
    return StudyStatus(study, runs, _read(study / "held.json"), notes)


def jobs_of(study: Path, submissions: list[Submission], live: Mapping[str, Job]) -> dict[tuple[str, str], Place]:
    """By run and stage."""
    places: dict[tuple[str, str], Place] = {}
    for submission in submissions:
        if submission.job_id is None:  # sbatch refused it
            continue
        logs = study / "logs" / submission.name
        for index, run in enumerate(submission.runs):
            before = places.get((run, submission.stage))
            if before is None or before.job_id not in live:
                places[run, submission.stage] = Place(submission.element(index), logs)
    return places


def run_status(run: RunDir, places: Mapping[str, Place], live: Mapping[str, Job] | None,
               planned: Mapping[str, float]) -> RunStatus:
    """`places`: its jobs by stage. `live`: the queue, None if that is not known. `planned`: seconds a step, by stage."""
    jobs = {stage: live[place.job_id] for stage, place in places.items() if place.job_id in live} if live else {}
    evaluation = None if jobs else _read(run.evaluation)
    if evaluation is not None:
        failure = read_failure(run.path)  # of what was asked for afterwards, such as another metric
        if failure is None or failure.time < run.evaluation.stat().st_mtime:
            failure = None
        return RunStatus(run.path.name, "failed" if failure else "done", failure.stage if failure else None, None, "", "",
                         failure.host if failure else "", None, None, None, "", None, None, None, None,
                         evaluation.get("samples"), evaluation.get("headline", {}), failure)
    progress = _read(run.progress) or {}
    stage = _stage(run, progress)
    ours = progress if progress.get("stage") == stage else {}
    job = jobs.get(stage) or next(iter(jobs.values()), None)
    failure = read_failure(run.path) if job is None or job.state == "COMPLETING" else None
    now = time.time()
    age = now - ours["heartbeat"] if ours else None
    state = "failed" if failure else _state(progress, job, bool(places), live is not None)
    if job and job.state == "RUNNING" and min(age if age is not None else now, now - (job.started or now)) > HUNG_S:
        state = "hung"
    rate = ours.get("rate") if state == "running" else None
    last = job.id if job else places[stage].job_id if stage in places else None
    node = job.node if job else failure.host if failure else ""
    left = (ours["total"] - ours["done"]) / rate if rate else None
    of_plan = 1 / (rate * planned[stage]) if rate and planned.get(stage) else None
    return RunStatus(run.path.name, state, stage, last, job.state if job else "", job.reason if job else "", node,
                     job.restarts if job else None, ours.get("done"), ours.get("total"), ours.get("unit", ""), rate,
                     ours.get("loss"), left, age, None if stage == "train" else _samples(run), {}, failure, of_plan)


def _stage(run: RunDir, progress: dict) -> str:
    """The first stage that is not done; progress.json saves a look at the checkpoints where it can."""
    for stage in STAGES:
        if progress.get("stage") == stage:
            if progress.get("state") != "done":
                return stage
        elif STAGES.index(progress.get("stage", STAGES[0])) <= STAGES.index(stage) and not run.is_done(stage):
            return stage
    return STAGES[-1]


def _state(progress: dict, job: Job | None, submitted: bool, queue_known: bool) -> str:
    """`progress` is of the stage in question or of the one before it, which then is done."""
    recorded_state = progress.get("state", "new")
    if job and job.state == "COMPLETING" and recorded_state in ("interrupted", "failed"):
        return recorded_state
    if job and job.state == "PENDING":
        return "held" if job.reason in HELD else "pending"
    if job:
        return "running" if job.state in ("RUNNING", "COMPLETING") else "pending"  # SUSPENDED, CONFIGURING, REQUEUED, ...
    if recorded_state in ("interrupted", "failed"):
        return recorded_state
    if not submitted or not queue_known:
        age = time.time() - progress.get("heartbeat", 0)
        if age < (HUNG_S if recorded_state == "running" else NEXT_STAGE_S):
            return "running"
    if submitted:
        return "stopped" if queue_known else "unknown"
    return "stopped" if progress else "new"


def _samples(run: RunDir) -> int:
    """Samples in the finished chunks of the main sampling: of files' names alone, and the frozen spec's two numbers."""
    try:
        with os.scandir(run.samples) as entries:
            chunks = sum(entry.name.startswith("chunk-") for entry in entries)
        # `jobs.spec.file.dump` wrote it, a field a line; reading YAML would take 10 ms a run.
        section = run.spec_file.read_text(encoding="utf-8").split("\nsample:\n", 1)[1]
        count, batch = (int(re.findall(rf"^  {field}: (\d+)$", section, re.M)[0]) for field in ("num_samples", "batch_size"))
    except (OSError, LookupError):
        return 0
    return min(count, chunks * batch)


def with_ends(runs: list[RunStatus], places: Mapping[tuple[str, str], Place], slurm: Slurm) -> list[RunStatus]:
    """The same, with why those ended that left neither result nor failure.json: by SLURM's accounts, else by their logs."""
    lost = {index: places[run.run, run.stage] for index, run in enumerate(runs)
            if run.state in ("stopped", "failed", "interrupted") and not run.slurm and run.failure is None
            and run.stage is not None and (run.run, run.stage) in places}
    accounts = slurm.ended({place.job_id.split("_")[0] for place in lost.values()})
    runs, logs_left = list(runs), LOGS_READ
    for index, place in lost.items():
        run, ended, words = runs[index], accounts.get(place.job_id), ""
        if (ended is None or ended.state == "FAILED") and logs_left:
            logs_left -= 1
            words = last_words(place.logs / f"{place.job_id}_0_log.out")
        kind, message = end_of(ended, words)
        node = ended.node if ended else ""
        failure = Failure(run.stage or "", kind, message, "", run.done, node, 0, 0.0) if kind else None
        runs[index] = replace(run, state="failed" if kind else run.state, failure=failure, node=node,
                              slurm=ended.state if ended else "", reason="" if kind else message)
    return runs


KIND_OF_STATE = {"OUT_OF_MEMORY": "out of memory", "TIMEOUT": "no progress", "DEADLINE": "no progress",
                 "NODE_FAIL": "node or network", "BOOT_FAIL": "node or network"}
# What slurmstepd and srun write into a log, the most telling first: one death makes them report others.
KIND_OF_WORDS = (
    (r"oom[-_]kill|Out Of Memory|memory limit", "out of memory"),
    (r"JOB \d+ ON \S+ CANCELLED AT .* DUE TO TIME LIMIT", "no progress"),
    (r"JOB \d+ ON \S+ CANCELLED AT .* DUE TO NODE FAIL", "node or network"),
    (r"JOB \d+ ON \S+ CANCELLED AT", None),
    (r"^(?:\[rank\d+\]: )?[A-Za-z_.]*(?:Error|Exception|StageFailed)\b", "error"),
    (r"task [\d,-]+: Killed", "killed"))


def end_of(ended: EndedJob | None, words: str) -> tuple[str | None, str]:
    """(kind, message): how a job ended, by its account and the end of its log. No kind: that is no failure, or not known."""
    account = f"{ended.state} after {ended.elapsed}{f' on {ended.node}' if ended.node else ''}" if ended else ""
    if ended and ended.state in KIND_OF_STATE:
        return KIND_OF_STATE[ended.state], account
    for pattern, kind in KIND_OF_WORDS:
        if found := re.search(f"{pattern}.*", words, re.M):
            line = re.sub(r"^\[rank\d+\]: ", "", found[0]).strip()
            if kind is None:
                return None, account or "CANCELLED"
            # Memory and network have their own words in exceptions.
            return (kind_of(RuntimeError(line)) if kind == "error" else kind), line
    if ended and ended.state == "FAILED":
        return ("killed" if ended.was_killed else "error"), f"{account}, exit code {ended.exit_code}"
    return None, account


def _read(file: Path) -> Any:
    try:
        with open(file, "rb") as opened:
            return json.loads(opened.read())
    except (OSError, ValueError):
        return None
