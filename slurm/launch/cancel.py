"""`iddpm cancel`: take a study's, or one run's, jobs out of the queue."""

from pathlib import Path

from slurm.launch.records import jobs_by_run, reports, study_and_run
from slurm.launch.squeue import command, compact, live_jobs, needs_slurm


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
