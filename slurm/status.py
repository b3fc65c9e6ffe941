"""`iddpm status`: where every run of a study stands, from its files and one look at SLURM's queue."""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.errors import StageFailed, UserError
from jobs.files import read_json
from jobs.progress import duration
from jobs.rundir import RunDir
from jobs.stage import STAGES
from slurm.queue import Job, live_jobs
from slurm.submissions import jobs_by_run, recorded

HUNG_S = 300  # a stage writes its heartbeat each second or at each step, whichever is slower


@dataclass(frozen=True)
class RunStatus:
    run: str
    state: str
    """done, running, hung, pending, interrupted, failed, stopped (neither done nor in the queue) or new."""
    stage: str | None
    """The first that is not done."""
    job: str | None
    reason: str
    node: str
    done: int | None
    total: int | None
    unit: str
    rate: float | None
    loss: float | None
    eta_s: float | None
    heartbeat_s: float | None
    metrics: dict[str, float]


def study_status(study: Path) -> list[RunStatus]:
    """One entry a run, in the order of study.json. Raises UserError where `study` is not a study's directory."""
    file = study / "study.json"
    if not file.is_file():
        raise UserError(f"{study}: not a study's directory (it has no study.json); they lie in runs/")
    live: dict[str, Job] = {}
    if (study / "submissions").is_dir():
        try:
            live = live_jobs()
        except (StageFailed, OSError) as error:  # the files tell much without it
            print(f"note: SLURM's queue does not answer: {str(error).splitlines()[0]}", file=sys.stderr)
    jobs = jobs_by_run(study, live)
    submitted = {name for submission in recorded(study, live) for name in submission.runs}
    return [run_status(RunDir(study / name), jobs, name in submitted) for name in read_json(file)["runs"]]


def run_status(run: RunDir, jobs: dict[tuple[str, str], Job], submitted: bool) -> RunStatus:
    evaluation = _read(run.evaluation)
    if evaluation is not None:
        return RunStatus(run.path.name, "done", None, None, "", "", None, None, "", None, None, None, None,
                         evaluation.get("headline", {}))
    progress = _read(run.progress) or {}
    stage = _stage(run, progress)
    job = next((jobs[run.path.name, name] for name in STAGES if (run.path.name, name) in jobs), None)
    ours = progress.get("stage") == stage
    age = time.time() - progress["heartbeat"] if ours else None
    rate = progress.get("rate") if ours else None
    left = (progress["total"] - progress["done"]) / rate if rate else None
    return RunStatus(run.path.name, _state(progress if ours else {}, job, age, submitted), stage, job.id if job else None,
                     job.reason if job else "", job.node if job else "", progress.get("done") if ours else None,
                     progress.get("total") if ours else None, progress.get("unit", "") if ours else "", rate,
                     progress.get("loss") if ours else None, left, age, {})


def _stage(run: RunDir, progress: dict) -> str:
    """The first stage that is not done; progress.json saves a look at the checkpoints where it can."""
    for stage in STAGES:
        if progress.get("stage") == stage:
            if progress.get("state") != "done":
                return stage
        elif STAGES.index(progress.get("stage", STAGES[0])) <= STAGES.index(stage) and not run.is_done(stage):
            return stage
    return STAGES[-1]


def _state(progress: dict, job: Job | None, age: float | None, submitted: bool) -> str:
    if job and job.state == "RUNNING":
        return "hung" if age is not None and age > HUNG_S and progress.get("state") == "running" else "running"
    if job:
        return "pending"
    if progress.get("state") == "running":
        return "running" if age is not None and age < HUNG_S and not submitted else "stopped"
    return progress.get("state") or ("stopped" if submitted else "new")


def _read(file: Path) -> dict | None:
    try:
        return read_json(file)
    except (OSError, UserError):
        return None


STYLES = {"done": "green", "running": "cyan", "hung": "bold red", "failed": "bold red", "stopped": "red",
          "interrupted": "yellow"}


def print_status(study: Path, as_json: bool) -> None:
    statuses = study_status(study)
    if as_json:
        print(json.dumps([asdict(status) for status in statuses], indent=1))
        return
    names = list(dict.fromkeys(name for status in statuses for name in status.metrics))
    columns = {"run": [], "state": [], "stage": [], "job": [], "node": [], "reason": [], "done": [], "rate": [], "loss": [],
               "left": [], "heard of": [], **{name: [] for name in names}}
    for status in statuses:
        cells = [status.run, Text(status.state, STYLES.get(status.state, "")), status.stage or "", status.job or "",
                 status.node, "" if status.node else status.reason,
                 "" if status.done is None else f"{status.done:,}/{status.total:,}", _or_blank(status.rate, "{:,.1f}/s"),
                 _or_blank(status.loss, "{:.4f}"), "" if status.eta_s is None else duration(status.eta_s),
                 "" if status.heartbeat_s is None else f"{duration(status.heartbeat_s)} ago",
                 *[_or_blank(status.metrics.get(name), "{:.4g}") for name in names]]
        for column, cell in zip(columns.values(), cells):
            column.append(cell)
    filled = {name: cells for name, cells in columns.items() if any(map(str, cells))}
    table = Table(box=box.SIMPLE_HEAD)
    for name in filled:
        right = name in ("done", "rate", "loss", "left", "heard of", *names)
        table.add_column(name, justify="right" if right else "left", overflow="fold" if name == "run" else "ellipsis")
    for row in zip(*filled.values()):
        table.add_row(*row)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160  # a pipe has no width; 80 would fold the names
    console.print(table)
    counts = {state: sum(status.state == state for status in statuses) for state in dict.fromkeys(s.state for s in statuses)}
    print(", ".join(f"{count} {state}" for state, count in counts.items()))


def _or_blank(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
