"""`iddpm requeue`: continue the jobs of a study, or of one run."""

from collections.abc import Iterator
from pathlib import Path

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.run.study.sharing import needed_by
from jobs.run.study.study_file import left_of, recorded_runs
from jobs.spec.sections import Spec
from jobs.spec.stages import STAGES
from jobs.storage.files import remove_file
from slurm.launch.limits import check_cluster, cluster_limits, with_queue_limit
from slurm.launch.profiles import load_profile
from slurm.launch.records import all_jobs, changing_jobs, jobs_by_run, recorded, reports, study_and_run
from slurm.launch.sites.bad_nodes import avoiding
from slurm.launch.sites.waves import set_waiting, waiting_runs
from slurm.launch.squeue import Job, command, compact, live_jobs, needs_slurm
from slurm.launch.submit import SubmitOptions, arrays_for, send


def requeue(path: Path) -> None:
    """Release held jobs, restart running jobs (they save first), and submit the stages that failed or have no job.

    Uses the options of the last submission and the current code. Raises UserError if `path` is neither a study nor a run.
    """
    needs_slurm()
    study, name = study_and_run(path)
    with changing_jobs(study):
        _requeue(study, name)


def _requeue(study: Path, name: str | None) -> None:
    live = live_jobs()
    left = set() if name else set(left_of(study))  # the sweep no longer has these runs: only their names bring them back
    idle = left - needed_by(study, left).keys()  # `arrays_for` brings back the trainings of the others, which runs share
    _release_and_restart([job for run, _, job in all_jobs(study, live) if name in (None, run) and run not in idle])
    if name is None:
        remove_file(study / "held.json")

    submissions = recorded(study, live)
    options = SubmitOptions(submissions[-1].cluster, submissions[-1].max_parallel) if submissions else SubmitOptions(None, None)
    profile, avoided = avoiding(load_profile(options.cluster), study)
    if avoided:
        print(f"note: {avoided}")
    limits, queued = cluster_limits(), {run for run, _ in jobs_by_run(study, live)}
    profile = with_queue_limit(profile, limits)
    names = [name] if name else [each for each in recorded_runs(study) if each not in queued and each not in left]
    unfinished = dict(_unfinished(study, names, named=name is not None))
    arrays, waiting = arrays_for(study, unfinished, live, profile, limits, options.max_parallel)
    check_cluster(arrays, study, profile, limits)
    send(arrays, study, options, profile, outdated=reports(study, live))
    set_waiting(study, [*(each for each in waiting_runs(study, submissions, []) if each not in unfinished), *waiting])


def _unfinished(study: Path, names: list[str], named: bool) -> Iterator[tuple[str, Spec]]:
    """Yield the runs that are not done, with their specs. A run that cannot be read keeps no other from being continued.

    Raises UserError for such a run if it was `named`.
    """
    for name in names:
        try:
            run = RunDir(study / name)
            if not run.is_done(STAGES[-1]):
                yield name, run.spec
        except UserError as error:
            if named:
                raise
            print(f"note: {error}; this run is left out, and `iddpm rm {study} {name}` drops it")


def _release_and_restart(jobs: list[Job]) -> None:
    held = [job.id for job in jobs if job.is_held]
    running = [job.id for job in jobs if job.state == "RUNNING"]
    for array in compact(held):
        command("scontrol", "release", array)
    if running:
        command("scancel", "--signal=USR2", "--state=RUNNING", *compact(running))
    print(f"{len(held):,} jobs released, {len(running):,} asked to save and restart")
