"""`iddpm cancel`: take a study's, or one run's, jobs out of the queue."""

from pathlib import Path

from jobs.errors import UserError
from slurm.queue import command, live_jobs, needs_slurm
from slurm.submissions import jobs_by_run


def cancel(path: Path) -> None:
    """`path` is a study's or a run's directory. What a running stage has saved stays. Raises UserError for other paths."""
    needs_slurm()
    path = path.resolve()
    if (path / "study.json").is_file():
        study, wanted = path, None
    elif (path / "spec.yaml").is_file():
        study, wanted = path.parent, path.name
    else:
        raise UserError(f"{path}: neither a study's nor a run's directory")
    ids = sorted({job.id for (run, _), job in jobs_by_run(study, live_jobs()).items() if wanted in (None, run)})
    if ids:
        command("scancel", *ids)
    print(f"{len(ids)} jobs cancelled")
