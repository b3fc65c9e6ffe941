"""Find the state of a study: of its runs, with causes and waits, and what there is to say of all of them.

A lost job's cause is in SLURM's accounting, else in its log; `run_state` has what a run's own files tell.

Made for studies of ten thousand runs: one call of squeue, at most one of sacct, and two or three small files a run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.run.directory import RunDir
from jobs.run.failures import Failure
from jobs.run.records import HeldFile, PlanFile
from jobs.run.study.study_file import left_words, names_of, study_as_found
from jobs.spec.stages import STAGES
from jobs.storage.typed import read_if_whole
from slurm.launch.records import Submission, recorded
from slurm.launch.sites.bad_nodes import bad_nodes_notes
from slurm.launch.sites.waves import in_words, waiting_runs
from slurm.launch.squeue import Job, Slurm
from slurm.status.ends import how_it_ended
from slurm.status.logs import end_of_log
from slurm.status.run_state import RunStatus, StageJob, run_status
from slurm.status.waits import unmet

NOT_STARTED = ("pending", "held", "stopped", "new", "unknown")  # states in which a stage may wait for another run
IDLE = ("stopped", "new", "interrupted", "failed")  # states in which nothing happens to a run until a user asks for it
SHARED = 5  # sentences about runs that share a training
LOGS_READ = 100  # at most, to find out how jobs ended


@dataclass(frozen=True)
class StudyStatus:
    path: Path
    runs: list[RunStatus]
    """In the order of study.json."""
    held: HeldFile | None
    """Why the rest of the study is on hold."""
    notes: list[str]


def study_status(study: Path, slurm: Slurm) -> StudyStatus:
    """The state of all runs of the study in the folder `study`. Files that cannot be read are named in notes and remarks.

    Raises UserError if study.json is damaged and there are no folders of runs either.
    """
    found, notes = study_as_found(study)
    names = list(found.runs)
    submitted = (study / "submissions").is_dir()
    live = slurm.live() if submitted else {}
    if live is None:
        notes.append(f"note: SLURM's queue does not answer, so this comes from files alone: {slurm.trouble}")
    submissions = recorded(study, live or {}, notes) if submitted else []
    for submission in submissions:
        if not submission.runs and (job := (live or {}).get(submission.job_id or "")):
            notes.append(f"report: job {job.id} {job.state.lower()}{f' ({job.reason})' if job.state == 'PENDING' else ''}")
    waiting = waiting_runs(study, submissions, notes)
    if waiting:
        goes_on = "which the job of the report submits" if any("report: job" in note for note in notes) else "submit again"
        notes.append(f"{in_words(len(waiting))} (max_queued of the cluster profile, or of QOS and account): {goes_on}")
    jobs = stage_jobs(study, submissions, live or {})
    plan = read_if_whole(study / "plan.json", PlanFile, notes)
    planned = plan.seconds_per_step if plan else {}
    runs = [run_status(RunDir(study / name), {stage: jobs[name, stage] for stage in STAGES if (name, stage) in jobs}, live,
                       planned.get(name, {})) for name in names]
    notes += shared_notes(runs)
    if live is not None:
        runs = with_causes(runs, jobs, slurm)
    notes += bad_nodes_notes(study)
    waits = set(waiting)
    runs = [replace(run, state="pending", reason="next wave") if run.run in waits and run.state in ("stopped", "new") else run
            for run in runs]
    if left := [name for name, entry in found.runs.items() if entry.left]:
        notes.append(f"left the sweep: {left_words(left, study)}")
        runs = [replace(run, state="left", failure=None) if run.run in left and run.state in IDLE else run for run in runs]
    held = read_if_whole(study / "held.json", HeldFile, notes)
    return StudyStatus(study, with_waits(runs, study), held, notes)


def shared_notes(runs: Sequence[RunStatus]) -> list[str]:
    """Return a sentence for each run that trains for others."""
    found: dict[str, list[str]] = {}
    for run in runs:
        if run.shares:
            found.setdefault(run.shares, []).append(run.run)
    notes = [f"one training: that of {trainer}, shared by {names_of(others)}" for trainer, others in found.items()]
    return notes[:SHARED] + ([f"... and {len(notes) - SHARED:,} more trainings that runs share"] if len(notes) > SHARED else [])


def stage_jobs(study: Path, submissions: list[Submission], live: Mapping[str, Job]) -> dict[tuple[str, str], StageJob]:
    """Map (run, stage) to its job."""
    jobs: dict[tuple[str, str], StageJob] = {}
    for submission in submissions:
        if submission.job_id is None:  # sbatch refused this array
            continue
        logs = study / "logs" / submission.name
        for index, run in enumerate(submission.runs):
            before, job_id = jobs.get((run, submission.stage)), submission.element(index)
            if before is None or (before.job_id not in live and (not submission.follow_up or job_id in live
                                                                 or (logs / f"{job_id}_0_log.out").exists())):
                jobs[run, submission.stage] = StageJob(job_id, logs)
    return jobs


def with_causes(runs: list[RunStatus], jobs: Mapping[tuple[str, str], StageJob], slurm: Slurm) -> list[RunStatus]:
    """Add the cause to runs whose job ended without a result or failure.json: by SLURM's accounting, else by its log."""
    lost = {index: jobs[run.run, run.stage] for index, run in enumerate(runs)
            if run.state in ("stopped", "failed", "interrupted") and not run.slurm and run.failure is None
            and run.stage is not None and (run.run, run.stage) in jobs}
    accounts = slurm.ended({job.job_id.split("_")[0] for job in lost.values()})
    runs, logs_left = list(runs), LOGS_READ
    for index, job in lost.items():
        run, ended, log_end = runs[index], accounts.get(job.job_id), ""
        if (ended is None or ended.state == "FAILED") and logs_left:
            logs_left -= 1
            log_end = end_of_log(job.logs / f"{job.job_id}_0_log.out")
        kind, message = how_it_ended(ended, log_end)
        node = ended.node if ended else ""
        failure = Failure(run.stage or "", kind, message, "", run.done, node, 0, 0.0) if kind else None
        runs[index] = replace(run, state="failed" if kind else run.state, failure=failure, node=node,
                              slurm=ended.state if ended else "", reason="" if kind else message)
    return runs


def with_waits(runs: list[RunStatus], study: Path) -> list[RunStatus]:
    """Add the named runs that a stage waits for to the runs whose stage has not started."""
    found = unmet(study, {run.run: run.stage for run in runs},
                  {run.run: run.shares for run in runs if run.state in NOT_STARTED})
    return [replace(run, waits_for=found[run.run]) if run.run in found else run for run in runs]
