"""`iddpm cancel`: remove the jobs of a study, or of one run, from SLURM's queue."""

import time
from contextlib import nullcontext
from pathlib import Path

from jobs.errors import StageFailed
from jobs.quantities import plural
from jobs.storage.files import remove_file
from slurm.launch.records import all_jobs, changing_jobs, jobs_of_damaged, mark_cancelled, recorded, reports, study_and_run
from slurm.launch.sites.waves import set_waiting, waiting_runs
from slurm.launch.squeue import command, compact, live_jobs, needs_slurm

SUBMITTED_S = 120.0  # to wait for a submission that is under way: its jobs are to be cancelled, too
GONE_S = 20  # to see that the jobs are gone; one that went back into the queue meanwhile is cancelled again


def cancel(path: Path) -> None:
    """Cancel all jobs of the study or run in the folder `path`. A running stage saves its state before it ends.

    Raises UserError if `path` is neither a study nor a run, and StageFailed if SLURM does not let go of a job.
    """
    needs_slurm()
    study, name = study_and_run(path)
    with changing_jobs(study, SUBMITTED_S) if (study / "submissions").is_dir() else nullcontext():
        _cancel(study, name)


def _cancel(study: Path, name: str | None) -> None:
    live, damaged = live_jobs(), list[str]()
    submissions = recorded(study, live, damaged)
    jobs = [job for run, _, job in all_jobs(study, live, []) if name in (None, run)]
    if name is None:
        jobs += reports(study, live, []) + jobs_of_damaged(study, live)
    set_waiting(study, [each for each in waiting_runs(study, submissions, []) if name not in (None, each)])
    if jobs:
        ids = {job.id for job in jobs}
        mark_cancelled(study, submissions, ids)  # before scancel: a job that is being requeued looks there
        _scancel(ids)
    print(f"{plural(len(jobs), 'job')} cancelled")
    for remark in damaged:
        print(f"note: {remark}{'; jobs of its name are cancelled, too' if name is None else ''}")
    if name is None:
        remove_file(study / "held.json")


def _scancel(ids: set[str]) -> None:
    """Cancel the jobs, and look again: a job that asked for its requeue just before may be back in the queue."""
    deadline, pause = time.monotonic() + GONE_S, 0.2
    command("scancel", *compact(ids))
    while left := {id: job for id, job in live_jobs().items() if id in ids}:
        back = [id for id, job in left.items() if job.state != "COMPLETING"]
        if time.monotonic() > deadline:
            if back:
                raise StageFailed(f"still in the queue after scancel: {', '.join(compact(sorted(back)))}; cancel again")
            print(f"still saving: {', '.join(compact(sorted(left)))}", flush=True)
            return
        if back:
            command("scancel", *compact(back))
        time.sleep(pause)
        pause = min(2 * pause, 2.0)
