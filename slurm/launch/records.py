"""The record of what was submitted for a study: submissions/NAME.json, one file for each array.

The file is written before sbatch, without the job's id, and again after it, with the id. A crash between the two writes
loses nothing: the array has the same name as the file, and is found in the queue by this name.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from jobs.errors import UserError
from jobs.spec.stages import STAGES
from jobs.storage.files import make_dir, write_json
from jobs.storage.locks import locked
from jobs.storage.typed import Time, read_record
from slurm.launch.squeue import Job


@dataclass(frozen=True)
class Submission:
    """One array: element i is `stage` of run number i. One run alone is a job without elements; the report has no runs."""

    name: str
    stage: str
    """A stage, or report."""
    runs: list[str]
    time: Time
    """Seconds since the epoch."""
    job_id: str | None = None
    code: str | None = None
    """Name of the snapshot that the jobs run: study/code/CODE."""
    cluster: str | None = None
    """Name of the cluster profile."""
    max_parallel: int | None = None
    follow_up: int = 0
    """0 for the first jobs of the stage; 1, 2, ... for those behind them, which resume it where jobs may not be requeued."""

    def element(self, index: int) -> str:
        """SLURM's id of the job of run number `index`."""
        return f"{self.job_id}_{index}" if len(self.runs) > 1 else str(self.job_id)


def record(study: Path, submission: Submission) -> None:
    """Write, or replace, the file of this submission."""
    write_json(study / "submissions" / f"{submission.name}.json", asdict(submission))


def recorded(study: Path, live: Mapping[str, Job], damaged: list[str] | None = None) -> list[Submission]:
    """All submissions of the study, oldest first. A missing job id is looked up by name among the `live` jobs, and recorded.

    Files that are not as `record` writes them raise UserError; with a list `damaged` their messages are added to it instead.
    """
    found = []
    for file in sorted((study / "submissions").glob("*.json")):
        try:
            found.append(_read(file))
        except (UserError, FileNotFoundError) as error:
            if damaged is None:
                raise UserError(f"{error}; it says which jobs do what: see `squeue --me --name={file.stem}`, and remove the file "
                                "when these jobs are gone") from error
            damaged.append(str(error))
    return [_with_id(study, submission, live) for submission in sorted(found, key=lambda submission: submission.time)]


def _read(file: Path) -> Submission:
    found = read_record(file, Submission)
    if found.runs and found.stage not in STAGES:
        raise UserError(f"{file}: not as iddpm writes this file: stage: {found.stage!r} is not a stage")
    return found


def _with_id(study: Path, submission: Submission, live: Mapping[str, Job]) -> Submission:
    if submission.job_id is not None:
        return submission
    for job in live.values():
        if job.name == submission.name:
            submission = replace(submission, job_id=job.id.split("_")[0])
            record(study, submission)
            break
    return submission


def jobs_by_run(study: Path, live: Mapping[str, Job]) -> dict[tuple[str, str], Job]:
    """Map (run, stage) to its job in the queue, for all that have one: to the first one, if follow-ups stand behind it."""
    first: dict[tuple[str, str], Job] = {}
    for run, stage, job in all_jobs(study, live):
        first.setdefault((run, stage), job)
    return first


def all_jobs(study: Path, live: Mapping[str, Job], damaged: list[str] | None = None) -> list[tuple[str, str, Job]]:
    """(run, stage, job) for each of the study's jobs in the queue, oldest first, without reports. `damaged`: as in `recorded`."""
    return [(run, submission.stage, live[submission.element(index)])
            for submission in recorded(study, live, damaged) for index, run in enumerate(submission.runs)
            if submission.element(index) in live]


def jobs_of_damaged(study: Path, live: Mapping[str, Job]) -> list[Job]:
    """Jobs in the queue whose files in submissions/ cannot be read: a job has the name of its file."""
    names = submission_names(study) - {submission.name for submission in recorded(study, live, [])}
    return [job for job in live.values() if job.name in names]


def reports(study: Path, live: Mapping[str, Job], damaged: list[str] | None = None) -> list[Job]:
    """The study's report jobs in the queue. `damaged`: as in `recorded`."""
    return [live[submission.job_id] for submission in recorded(study, live, damaged)
            if not submission.runs and submission.job_id is not None and submission.job_id in live]


@contextmanager
def changing_jobs(study: Path, wait: float = 0.0) -> Iterator[None]:
    """Let no other process submit, requeue or cancel jobs of the study while the block lasts. Raises Busy after `wait` s."""
    busy = f"{study}: another process is submitting, requeueing or cancelling jobs of this study"
    with locked(make_dir(study / "submissions") / "lock", busy, wait):
        yield


def submission_names(study: Path) -> set[str]:
    """The names of all submissions so far."""
    return {file.stem for file in (study / "submissions").glob("*.json")}


def mark_cancelled(study: Path, submissions: Iterable[Submission], ids: set[str]) -> None:
    """Write the `ids` of cancelled jobs into logs/NAME/cancelled of their submissions: batch.sh requeues and starts none."""
    for submission in submissions:
        ours = [submission.element(index) for index in range(max(len(submission.runs), 1)) if submission.element(index) in ids]
        if ours:
            with open(make_dir(study / "logs" / submission.name) / "cancelled", "a", encoding="utf-8") as file:
                file.write("".join(f"{id}\n" for id in ours))


def study_and_run(path: Path) -> tuple[Path, str | None]:
    """(folder of the study, name of the run) for the folder of a study or a run; None for the run if `path` is a study.

    Raises UserError if `path` is neither.
    """
    path = path.resolve()
    if os.path.lexists(path / "study.json"):
        return path, None
    if os.path.lexists(path / "spec.yaml"):
        return path.parent, path.name
    raise UserError(f"{path}: neither a study's nor a run's directory; studies are runs/<study>, runs are runs/<study>/<run>")
