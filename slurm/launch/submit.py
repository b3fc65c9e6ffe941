"""`iddpm submit`: submit the stages of all runs of a spec as SLURM jobs, and a report as the last job."""

import re
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError

from jobs.cost.bench.file import bench_to_plan_by
from jobs.cost.disk import check_disk
from jobs.cost.study_plan import plan_ahead
from jobs.errors import Busy, StageFailed, UserError
from jobs.kinds.start_fit import check_starts
from jobs.quantities import plural
from jobs.run.directory import RunDir
from jobs.run.preflight import check_inputs
from jobs.run.start_weights import still_to_start
from jobs.run.study.freezing import freeze, refuse_changes
from jobs.run.study.study_file import left_note, left_of
from jobs.spec.kinds import stages_of
from jobs.spec.reading.file import load
from jobs.spec.sections import Spec
from jobs.spec.stages import STAGES
from jobs.storage.files import remove_file
from slurm.launch.in_job.job_entry import report_in_slurm, run_in_slurm
from slurm.launch.job_arrays import REPORT, Array, Chain, build_arrays, chains_of, graph, hours
from slurm.launch.limits import Limits, check_cluster, check_folder, cluster_limits, with_queue_limit
from slurm.launch.named_runs import needs
from slurm.launch.profiles import Profile, load_profile
from slurm.launch.records import Submission, changing_jobs, jobs_by_run, record, recorded, reports, submission_names
from slurm.launch.sbatch_script import dependency, executor, script
from slurm.launch.sites.bad_nodes import avoiding
from slurm.launch.sites.waves import first_wave, in_words, named_by, set_waiting
from slurm.launch.snapshot import snapshot
from slurm.launch.squeue import Job, command, left_out, live_jobs, needs_slurm, sbatch_environment

# What sbatch says where a QOS or an association takes no more jobs of this user.
TOO_MANY = re.compile("MaxSubmitJob|GrpSubmitJob|job submit limit|accounting/QOS policy")
NAMED = 5  # runs of an array that --dry-run names


@dataclass(frozen=True)
class SubmitOptions:
    """Options of `iddpm submit`. They are recorded with the submission, and `iddpm requeue` uses them again."""

    cluster: str | None
    """Name of the cluster profile."""
    max_parallel: int | None
    """The most GPUs (or processes) that the study may use at once."""


def submit_study(spec: Path, overrides: Sequence[str], runs_folder: Path, options: SubmitOptions, dry_run: bool) -> None:
    """Submit every stage that is neither done nor in the queue; with `dry_run` only print the scripts.

    Raises UserError, before anything is written, for bad specs, missing inputs, a full disk, and jobs that the cluster refuses.
    """
    needs_slurm()
    study = load(spec, overrides)
    specs = {run.name: run.spec for run in study.runs}
    check_inputs(list(specs.values()))
    folder = runs_folder.resolve() / study.name
    check_starts(study, still_to_start(study.runs, folder))
    check_folder(folder)
    before = submission_names(folder)
    (profile, avoided), limits, live = avoiding(load_profile(options.cluster), folder), cluster_limits(), live_jobs()
    profile = with_queue_limit(profile, limits)
    queued = {run for run, _ in jobs_by_run(folder, live)}
    notes = [f"note: {note}" for note in (*study.notes, left_note(study, runs_folder), avoided) if note]
    changes = refuse_changes(study, runs_folder, queued)
    redo = {change.run.path.name: change.redo for change in changes if change.redo}
    shares = {change.run.path.name: change.shares for change in changes}
    arrays, waiting = arrays_for(folder, specs, live, profile, limits, options.max_parallel, redo, shares)
    if variables := left_out([script(executor(array, folder, profile, "test", folder, None), 1) for array in arrays]):
        notes.append(f"note: {variables}")
    disk = check_disk(specs, folder)
    check_cluster(arrays, folder, profile, limits)
    if dry_run:
        print_scripts(arrays, folder, profile)
        later = [f"{plural(len(waiting), 'run')} in later waves"] if waiting else []
        print("\n".join(f"# {line}" for line in [*notes, *later, f"{hours(arrays)}; {disk}"]))
        return
    with changing_jobs(folder):
        if submission_names(folder) != before:
            raise Busy(f"{folder}: another process has just submitted jobs of this study; submit again for what is missing")
        freeze(study, runs_folder, queued)
        print("\n".join(notes), end="\n" * bool(notes))
        unfinished = {run.path.name for array in arrays for run in array.runs}
        if not queued:  # no job is left that could be on hold
            remove_file(folder / "held.json")
        elif (folder / "held.json").exists():
            print(f"note: this study is on hold; `iddpm requeue {runs_folder / study.name}` releases it")
        print(f"{study.name}: {plural(len(specs), 'run')}, {len(queued & specs.keys()):,} in the queue "
              f"already, {len(specs.keys() - queued - unfinished - set(waiting)):,} done; {hours(arrays)}; {disk}")
        if planned := plan_ahead(study, folder, bench_to_plan_by(profile.bench), profile.signal_lead_s):
            print(planned)
        send(arrays, folder, options, profile, outdated=reports(folder, live))
        set_waiting(folder, waiting)
        if waiting:
            print(f"{in_words(len(waiting))}, which the job of the report submits")


def arrays_for(folder: Path, specs: dict[str, Spec], live: dict[str, Job], profile: Profile, limits: Limits,
               max_parallel: int | None, redo: Mapping[str, str] | None = None,
               shares: Mapping[str, str | None] | None = None) -> tuple[list[Array], list[str]]:
    """The arrays to submit now for these runs of the study in `folder`, and the runs that wait for the next wave.

    `redo`: by run, the first stage whose results will not count any more, although they are still there. `shares`: the trainers
    of runs that are not made yet. A trainer that is not among the runs, because it left the sweep, is trained all the same.
    Skips runs that have `live` jobs. Completes submissions that were interrupted. Stages wait for the runs that their specs
    name. Raises UserError as `build_arrays` and `needs` do.
    """
    incomplete = incomplete_submissions(folder, live, specs)
    queued = {run for run, _ in jobs_by_run(folder, live)} | {run.path.name for chain in incomplete for run in chain.runs}
    left = {}
    for name, spec in specs.items():
        if name in queued:
            continue
        run = RunDir(folder / name, spec, (shares or {}).get(name))
        first, own = STAGES.index((redo or {}).get(name, STAGES[-1])), STAGES[1:] if run.shares else STAGES
        stages = [stage for stage in own if stage in stages_of(spec)
                  if not (run.spec_file.is_file() and run.is_done(stage))
                  or name in (redo or {}) and STAGES.index(stage) >= first]
        if stages:
            left[run] = spec, stages
    for trainer in dict.fromkeys(run.trainer for run in left if run.shares):
        if trainer.path.name not in specs and trainer.path.name not in queued and not trainer.is_done(STAGES[0]):
            left[trainer] = trainer.spec, [STAGES[0]]
    waiting = _wait_for_room(folder, left, incomplete, live, profile)
    planned = {run: [stage for stage, _ in chain.stages] for chain in incomplete for run in chain.runs}
    planned |= {run: stages for run, (_, stages) in left.items()}
    # The runs of an array in the queue have the same needs: they could not share it otherwise. One of them answers for all.
    needed = needs([*(chain.runs[0] for chain in incomplete), *left], planned, live)
    incomplete = [replace(chain, needs={stage: needed[chain.runs[0], stage] for stage, _ in chain.stages
                                        if (chain.runs[0], stage) in needed}) for chain in incomplete]
    chains = [*incomplete, *chains_of(left, profile.max_array_size or limits.array_size, needed)]
    if not chains:
        return [], waiting
    spec = next(iter(specs.values()), None) or chains[0].runs[0].spec
    return build_arrays(chains, spec.resources.of_report, max_parallel, last_in_queue(folder, live),
                        profile.follow_ups_used), waiting


def _wait_for_room(folder: Path, left: dict[RunDir, tuple[Spec, list[str]]], incomplete: Sequence[Chain],
                   live: Mapping[str, Job], profile: Profile) -> list[str]:
    """Take the runs out of `left` for which the queue has no room now, and return their names.

    Raises UserError if the profile's max_queued is too few for one run, or if no job of this study would go on with the others.
    """
    if profile.max_queued is None or not left:
        return []
    jobs = {run: len(stages) * (1 + profile.follow_ups_used) for run, (_, stages) in left.items()}
    room = profile.max_queued - len(live) - 1 - sum(len(chain.runs) * len(chain.stages) for chain in incomplete)
    wave = first_wave(jobs, named_by, room)
    waiting = [run for run in left if run not in set(wave)]
    limit = f"{profile.max_queued} of your jobs may be in the queue (max_queued of the cluster profile, or of QOS and account)"
    if waiting and (least := max(jobs.values()) + 2) > profile.max_queued:
        raise UserError(f"{limit}, too few for waves: one run needs {least - 2}, beside the report of its wave and that of the "
                        f"wave before: {least}")
    if waiting and not wave and not incomplete and not reports(folder, live):
        raise UserError(f"{limit}, and with {len(live):,} there now is no room for {min(jobs.values()) + 1} more; submit again "
                        "when some have ended")
    for run in waiting:
        del left[run]
    return [run.path.name for run in waiting]


def incomplete_submissions(folder: Path, live: dict[str, Job], asked: Collection[str]) -> list[Chain]:
    """The stages that are missing behind arrays in the queue, because `iddpm submit` was stopped between two arrays.

    Elements of such an array may have ended: their runs are in the new arrays, too, so that element i waits for element i.
    Runs that left the sweep, and are not among the runs `asked` for, may train for others, and do nothing more.
    """
    jobs, incomplete = jobs_by_run(folder, live), []
    idle = set(left_of(folder)).difference(asked)
    newest = {(submission.stage, *submission.runs): submission for submission in recorded(folder, live)}  # the last follow-up
    for submission in newest.values():
        if idle.issuperset(submission.runs):  # so is a report, which has no runs
            continue
        elements = {RunDir(folder / name): submission.element(index) for index, name in enumerate(submission.runs)}
        queued = [run for run, element in elements.items() if element in live]
        one = next(iter(elements))  # the runs have the same stages, or they would not share an array
        later = [stage for stage in STAGES[STAGES.index(submission.stage) + 1:] if one.has_stage(stage)]
        if not queued or not later or any((run, stage) in jobs for run in submission.runs for stage in later):
            continue
        if all(run in queued or run.spec_file.is_file() and run.is_done(submission.stage) for run in elements):
            behind = {tuple(elements): submission.job_id}
        else:  # where an element has failed, or its run was removed, no array can wait for the whole array
            behind = {(run,): elements[run] for run in queued if run.spec_file.is_file()}
        for runs, id in behind.items():
            stages = tuple((stage, getattr(runs[0].spec.resources, stage)) for stage in later)
            incomplete.append(Chain(stages, runs, behind=id))
    return incomplete


def last_in_queue(folder: Path, live: dict[str, Job]) -> list[str]:
    """Ids of the study's arrays that still have jobs in the queue, without reports."""
    ids = {job.id.split("_")[0] for job in live.values()}
    return [submission.job_id for submission in recorded(folder, live)
            if submission.job_id in ids and submission.stage != REPORT]


def send(arrays: Sequence[Array], folder: Path, options: SubmitOptions, profile: Profile, outdated: Sequence[Job]) -> None:
    """Call sbatch once for each array, then cancel the `outdated` report jobs. Raises StageFailed if sbatch refuses."""
    if not arrays:
        return
    code = snapshot(folder)
    ids: list[str] = []
    for array in arrays:
        name = f"{folder.name}-{array.stage}-{uuid.uuid4().hex[:8]}"
        submission = Submission(name, array.stage, [run.path.name for run in array.runs], time.time(), code=code.name,
                                cluster=options.cluster, max_parallel=options.max_parallel, follow_up=array.follow_up)
        record(folder, submission)
        launcher = executor(array, folder, profile, name, code, dependency(array, ids))
        jobs: list[submitit.Job]
        try:
            with sbatch_environment(script(launcher, 1)):
                if array.stage == REPORT:
                    jobs = [launcher.submit(report_in_slurm, str(folder), str(Path.cwd()))]
                else:
                    with launcher.batch():
                        jobs = [launcher.submit(run_in_slurm, array.stage, str(run.path), str(Path.cwd()))
                                for run in array.runs]
        except FailedJobError as error:
            waves = "; `max_queued: N` in the cluster profile makes the study go in waves" if TOO_MANY.search(str(error)) else ""
            raise StageFailed(f"{array.stage}: sbatch refused: {error}; submit again for the missing jobs{waves}") from error
        ids.append(jobs[0].job_id.split("_")[0])
        record(folder, replace(submission, job_id=ids[-1]))
        runs = f", {plural(len(array.runs), 'run')}" if array.runs else ""
        follow_up = f", follow-up {array.follow_up}" if array.follow_up else ""
        print(f"{array.stage:<9} job {ids[-1]}{runs}{follow_up}", flush=True)
    if outdated:
        command("scancel", *(job.id for job in outdated))


def print_scripts(arrays: Sequence[Array], folder: Path, profile: Profile) -> None:
    """Print the sbatch scripts as they would be submitted, with <1>, <2>, ... for job ids, and the dependencies."""
    code = folder / "code" / "SNAPSHOT"
    for number, array in enumerate(arrays, start=1):
        names = ", ".join(run.path.name for run in array.runs[:NAMED]) + (", ..." if len(array.runs) > NAMED else "")
        print(f"# {number}. {array.stage}: {f'{len(array.runs):,} runs: {names}' if array.runs else 'the whole study'}")
        waits = dependency(array, [f"<{index + 1}>" for index in range(len(arrays))])
        print(script(executor(array, folder, profile, f"{folder.name}-{array.stage}", code, waits), array.size))
    print("\n".join(f"# {line}" for line in graph(arrays).splitlines()))
