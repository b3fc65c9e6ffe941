"""`iddpm cancel`: remove the jobs of a study, or of one run, from SLURM's queue."""

from pathlib import Path

from slurm.launch.records import jobs_by_run, reports, study_and_run
from slurm.launch.squeue import command, compact, live_jobs, needs_slurm


def cancel(path: Path) -> None:
    """Cancel all jobs of the study or run in the folder `path`. A running stage saves its state before it ends.

    Raises UserError if `path` is neither a study nor a run.
    """
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
