"""`iddpm requeue`: get a study's, or one run's, jobs going again."""

from pathlib import Path

from jobs.run.directory import RunDir
from jobs.storage.files import read_json
from slurm.launch.limits import check_cluster, cluster_limits
from slurm.launch.profiles import load_profile
from slurm.launch.records import jobs_by_run, recorded, reports, study_and_run
from slurm.launch.squeue import command, compact, live_jobs, needs_slurm
from slurm.launch.submit import Wanted, arrays_for, send

HELD = ("JobHeldUser", "JobHeldAdmin")


def requeue(path: Path) -> None:
    """Release what is on hold, send what runs back into the queue (it saves first), submit what failed or was lost.

    As it was last submitted: the same cluster profile, the code of now. Raises UserError where `path` is no study or run.
    """
    needs_slurm()
    study, name = study_and_run(path)
    live = live_jobs()
    jobs = [job for (run, _), job in jobs_by_run(study, live).items() if name in (None, run)]
    held = [job for job in jobs if job.reason in HELD]
    running = [job for job in jobs if job.state == "RUNNING"]
    if held:
        for array in compact(job.id for job in held):
            command("scontrol", "release", array)
    if running:
        command("scancel", "--signal=USR2", "--state=RUNNING", *compact(job.id for job in running))
    if name is None:
        (study / "held.json").unlink(missing_ok=True)
    print(f"{len(held):,} jobs released, {len(running):,} told to save and go back into the queue")

    submissions = recorded(study, live)
    last = submissions[-1] if submissions else None
    wanted = Wanted(last.cluster, last.max_parallel) if last else Wanted(None, None)
    profile, limits, queued = load_profile(wanted.cluster), cluster_limits(), {run for run, _ in jobs_by_run(study, live)}
    names = [name] if name else [name for name in read_json(study / "study.json")["runs"] if name not in queued]
    left = {name: run.spec for name in names if not (run := RunDir(study / name)).is_done("evaluate")}
    arrays = arrays_for(study, left, live, profile.max_array_size or limits.array_size, wanted.max_parallel)
    check_cluster(arrays, study, profile, limits)
    send(arrays, study, wanted, profile, outdated=reports(study, live))
