"""`iddpm submit`: the stages of all runs of a spec as SLURM jobs, and a report at their end."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError

from jobs.cost.bench.file import bench_to_plan_by
from jobs.cost.disk import check_disk
from jobs.cost.study_plan import plan_ahead
from jobs.errors import StageFailed
from jobs.run.directory import RunDir, freeze, refuse_changes
from jobs.run.preflight import check_inputs
from jobs.spec.file import load
from jobs.spec.sections import STAGES, Spec
from slurm.launch.job_arrays import REPORT, Array, Chain, chains_of, graph, hours, plan
from slurm.launch.job_entry import report_in_slurm, run_in_slurm
from slurm.launch.limits import check_cluster, check_folder, cluster_limits
from slurm.launch.profiles import Profile, load_profile
from slurm.launch.records import Submission, jobs_by_run, record, recorded, reports
from slurm.launch.sbatch_script import dependency, executor, script
from slurm.launch.snapshot import snapshot
from slurm.launch.squeue import Job, command, live_jobs, needs_slurm

NAMED = 5


@dataclass(frozen=True)
class Wanted:
    """How a study is to be submitted; recorded with it, so that it can be said again without the words."""

    cluster: str | None
    max_parallel: int | None


def submit_study(spec: Path, overrides: Sequence[str], runs_folder: Path, wanted: Wanted, dry_run: bool) -> None:
    """Submit what is neither done nor in the queue. Raises UserError for what can be known to go wrong beforehand."""
    needs_slurm()
    study = load(spec, overrides)
    specs = {run.name: run.spec for run in study.runs}
    check_inputs(list(specs.values()))
    folder = runs_folder.resolve() / study.name
    check_folder(folder)
    profile, limits, live = load_profile(wanted.cluster), cluster_limits(), live_jobs()
    queued = {run for run, _ in jobs_by_run(folder, live)}
    arrays = arrays_for(folder, specs, live, profile.max_array_size or limits.array_size, wanted.max_parallel)
    disk = check_disk(specs, folder)
    check_cluster(arrays, folder, profile, limits)
    if dry_run:
        refuse_changes(study, runs_folder)
        print_plan(arrays, folder, profile)
        print(f"# {hours(arrays)}; {disk}")
        return
    freeze(study, runs_folder)
    unfinished = {run.path.name for array in arrays for run in array.runs}
    if not queued:  # whatever was on hold is gone
        (folder / "held.json").unlink(missing_ok=True)
    elif (folder / "held.json").exists():
        print(f"note: this study is on hold; `iddpm requeue {runs_folder / study.name}` releases it")
    print(f"{study.name}: {len(specs):,} run{'s' if len(specs) > 1 else ''}, {len(queued & specs.keys()):,} in the queue "
          f"already, {len(specs.keys() - queued - unfinished):,} done; {hours(arrays)}; {disk}")
    if planned := plan_ahead(study, folder, bench_to_plan_by(profile.bench), profile.signal_lead_s):
        print(planned)
    send(arrays, folder, wanted, profile, outdated=reports(folder, live))


def arrays_for(folder: Path, specs: dict[str, Spec], live: dict[str, Job], array_size: int,
               max_parallel: int | None) -> list[Array]:
    """What to submit for these runs of a study, beside its `live` jobs: arrays of at most `array_size`."""
    queued = {run for run, _ in jobs_by_run(folder, live)}
    left = {}
    for name, spec in specs.items():
        if name in queued:
            continue
        run = RunDir(folder / name, spec)
        stages = [stage for stage in STAGES if not (run.spec_file.is_file() and run.is_done(stage))]
        if stages:
            left[run] = spec, stages
    chains = [*torn_chains(folder, live), *chains_of(left, array_size)]
    return plan(chains, max_parallel, last_in_queue(folder, live))


def torn_chains(folder: Path, live: dict[str, Job]) -> list[Chain]:
    """What is missing behind arrays in the queue: a submission that broke off between two of its arrays."""
    jobs, torn = jobs_by_run(folder, live), []
    for submission in recorded(folder, live):
        queued = [run for index, run in enumerate(submission.runs) if submission.element(index) in live]
        later = STAGES[STAGES.index(submission.stage) + 1:] if submission.runs else ()
        if queued and later and not any((run, stage) in jobs for run in submission.runs for stage in later):
            runs = tuple(RunDir(folder / name) for name in submission.runs)
            torn.append(Chain(tuple((stage, getattr(runs[0].spec.resources, stage)) for stage in later), runs, submission.job_id))
    return torn


def last_in_queue(folder: Path, live: dict[str, Job]) -> list[str]:
    """Ids of the study's arrays that still have jobs in the queue, but for reports."""
    ids = {job.id.split("_")[0] for job in live.values()}
    return [submission.job_id for submission in recorded(folder, live)
            if submission.job_id in ids and submission.stage != REPORT]


def send(arrays: Sequence[Array], folder: Path, wanted: Wanted, profile: Profile, outdated: Sequence[Job]) -> None:
    """One sbatch for each array; the reports of the study that wait in the queue, `outdated`, give way to the new one."""
    if not arrays:
        return
    code = snapshot(folder)
    ids: list[str] = []
    for array in arrays:
        name = f"{folder.name}-{array.stage}-{uuid.uuid4().hex[:8]}"
        submission = Submission(name, array.stage, [run.path.name for run in array.runs], time.time(), code=code.name,
                                cluster=wanted.cluster, max_parallel=wanted.max_parallel)
        record(folder, submission)
        launcher = executor(array, folder, profile, name, code, dependency(array, ids))
        jobs: list[submitit.Job]
        try:
            if array.stage == REPORT:
                jobs = [launcher.submit(report_in_slurm, str(folder), str(Path.cwd()))]
            else:
                with launcher.batch():
                    jobs = [launcher.submit(run_in_slurm, array.stage, str(run.path), str(Path.cwd())) for run in array.runs]
        except FailedJobError as error:
            raise StageFailed(f"{array.stage}: sbatch refused: {error}; submit again for what is missing") from error
        ids.append(jobs[0].job_id.split("_")[0])
        record(folder, replace(submission, job_id=ids[-1]))
        runs = f", {len(array.runs):,} run{'s' if len(array.runs) > 1 else ''}" if array.runs else ""
        print(f"{array.stage:<9} job {ids[-1]}{runs}", flush=True)
    if outdated:
        command("scancel", *(job.id for job in outdated))


def print_plan(arrays: Sequence[Array], folder: Path, profile: Profile) -> None:
    """The sbatch scripts as they would be submitted (their ids are not known yet), and what waits for what."""
    code = folder / "code" / "SNAPSHOT"
    for place, array in enumerate(arrays):
        names = ", ".join(run.path.name for run in array.runs[:NAMED]) + (", ..." if len(array.runs) > NAMED else "")
        print(f"# {place + 1}. {array.stage}: {f'{len(array.runs):,} runs: {names}' if array.runs else 'the whole study'}")
        waits = dependency(array, [f"<{number + 1}>" for number in range(len(arrays))])
        print(script(executor(array, folder, profile, f"{folder.name}-{array.stage}", code, waits), array.size))
    print("\n".join(f"# {line}" for line in graph(arrays).splitlines()))
