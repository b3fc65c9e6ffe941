"""What was submitted for a study: submissions/NAME.json, one for each array.

The file is written before sbatch without the job's id, and again with it. A crash in between leaves no orphan: the array is
named like the file, and is found in the queue by that name.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from jobs.errors import UserError
from jobs.storage.files import read_json, write_json
from slurm.launch.squeue import Job


@dataclass(frozen=True)
class Submission:
    """One array: element i is the stage of run number i. A single job is no array; the report has no runs."""

    name: str
    stage: str
    runs: list[str]
    time: float
    job_id: str | None = None
    code: str | None = None
    """The snapshot it runs: study/code/CODE."""
    cluster: str | None = None
    max_parallel: int | None = None

    def element(self, index: int) -> str:
        """SLURM's id of the job of run number `index`."""
        return f"{self.job_id}_{index}" if len(self.runs) > 1 else str(self.job_id)


def record(study: Path, submission: Submission) -> None:
    write_json(study / "submissions" / f"{submission.name}.json", asdict(submission))


def recorded(study: Path, live: Mapping[str, Job]) -> list[Submission]:
    """All submissions of the study, the oldest first; those whose id was lost are adopted from the queue by name."""
    found = [Submission(**read_json(file)) for file in (study / "submissions").glob("*.json")]
    return [_adopted(study, submission, live) for submission in sorted(found, key=lambda submission: submission.time)]


def _adopted(study: Path, submission: Submission, live: Mapping[str, Job]) -> Submission:
    if submission.job_id is not None:
        return submission
    for job in live.values():
        if job.name == submission.name:
            submission = replace(submission, job_id=job.id.split("_")[0])
            record(study, submission)
            break
    return submission


def jobs_by_run(study: Path, live: Mapping[str, Job]) -> dict[tuple[str, str], Job]:
    """(run, stage) -> its job in the queue, for all that have one."""
    return {(run, submission.stage): live[submission.element(index)]
            for submission in recorded(study, live) for index, run in enumerate(submission.runs)
            if submission.element(index) in live}


def reports(study: Path, live: Mapping[str, Job]) -> list[Job]:
    """The study's report jobs in the queue."""
    return [live[submission.job_id] for submission in recorded(study, live)
            if not submission.runs and submission.job_id is not None and submission.job_id in live]


def study_and_run(path: Path) -> tuple[Path, str | None]:
    """The study's directory, and the run's name where `path` is a run's. Raises UserError where it is neither."""
    path = path.resolve()
    if (path / "study.json").is_file():
        return path, None
    if (path / "spec.yaml").is_file():
        return path.parent, path.name
    raise UserError(f"{path}: neither a study's nor a run's directory; they lie in runs/")
