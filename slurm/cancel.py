"""`iddpm cancel`: take a study's, or one run's, jobs out of the queue."""

from pathlib import Path

from jobs.errors import UserError
from slurm.queue import command, compact, live_jobs, needs_slurm
from slurm.submissions import jobs_by_run, reports


def cancel(path: Path) -> None:
    """`path` is a study's or a run's directory. What a running stage has saved stays. Raises UserError for other paths."""
    needs_slurm()
    study, name = study_and_run(path)
    live = live_jobs()
    jobs = [job for (run, _), job in jobs_by_run(study, live).items() if name in (None, run)]
    if name is None:
        jobs += reports(study, live)
        (study / "held.json").unlink(missing_ok=True)
    if jobs:
        command("scancel", *compact(job.id for job in jobs))
    print(f"{len(jobs):,} job{'' if len(jobs) == 1 else 's'} cancelled")


def study_and_run(path: Path) -> tuple[Path, str | None]:
    """The study's directory, and the run's name where `path` is a run's. Raises UserError where it is neither."""
    path = path.resolve()
    if (path / "study.json").is_file():
        return path, None
    if (path / "spec.yaml").is_file():
        return path.parent, path.name
    raise UserError(f"{path}: neither a study's nor a run's directory; they lie in runs/")
