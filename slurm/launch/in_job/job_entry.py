"""The functions that SLURM's jobs run, once on every rank: do one stage of one run, then end, requeue or fail the job."""

import os
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from jobs.errors import StageFailed
from jobs.parallel.devices import node_name
from jobs.parallel.interruption import SIGNALS
from jobs.parallel.launchers import forget_launchers
from jobs.run.directory import RunDir
from jobs.run.failures import describe, write_failure
from jobs.run.records import ProgressFile, Requeue, RequeuesFile
from jobs.stage import run_stage
from jobs.storage.files import write_json
from jobs.storage.typed import read_if_whole
from slurm.launch.in_job.hold import hold_if_alike
from slurm.launch.in_job.requests import ask_nothing, ask_requeue, ask_success, ask_wait, follow_ups, is_follow_up
from slurm.launch.sites.bad_nodes import remember_node

SRUN_REACTS_S = 10
FRUITLESS = 3  # attempts one after another that a job may end without progress, where its time limit is not the reason


def run_in_slurm(stage: str, run_path: str, workdir: str) -> dict[str, str]:
    """Do this rank's part of `stage`. submitit calls this function; its arguments are all that a job carries.

    `workdir`: the folder that relative paths in the spec start from. If the stage was interrupted in time, one rank asks the
    batch script to put the job back into the queue, as long as attempts make progress. If the stage failed, raises
    StageFailed: SLURM then marks the job as failed and does not start the jobs that depend on it.
    """
    os.chdir(workdir)
    forget_launchers(keep=("SUBMITIT_", "IDDPM_REQUEST"))  # an image or a module may set RANK
    run = Path(run_path)
    if is_follow_up() and RunDir(run).is_done(stage):  # by a job before this one
        return {"state": "done", "message": "", "signal": ""}
    outcome = run_stage(stage, run_path, meeting=attempt_name())
    state = outcome["state"]
    if state in ("done", "interrupted"):
        # Python removes its signal handlers when it exits. A warning of the time limit would then fail this rank, and
        # --kill-on-bad-exit would end the others.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if state == "interrupted" and outcome["signal"] in ("SIGTERM", "SIGINT"):
            ask_wait()
        elif state == "interrupted" and int(os.environ["SLURM_PROCID"]) == 0:
            ask_for_requeue(stage, run)
        return outcome
    if state == "abandoned":
        # If another rank failed, srun is about to end this one with SIGTERM. If its node died, SLURM notices only after
        # minutes: the remaining ranks ask for the requeue.
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(1))
        time.sleep(SRUN_REACTS_S)
        ask_for_requeue(stage, run, node_lost=True)
        sys.stdout.flush()
        os._exit(1)  # at once, and without a result: srun ends the other ranks, and the batch script goes on
    ask_nothing()
    remember_node(run)
    hold_if_alike(run)
    raise StageFailed(outcome["message"])


def report_in_slurm(study_path: str, workdir: str) -> str:
    """Write the study's report, from whatever its runs have. This is the last job of a study."""
    from jobs.report.write import report

    os.chdir(workdir)
    return str(report(Path(study_path)))


def attempt_name() -> str:
    """The job, and how often SLURM has restarted it: 31-0."""
    return f"{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"


def ask_for_requeue(stage: str, run: Path, node_lost: bool = False) -> None:
    """Ask to put this job back into the queue. Raises StageFailed if it made no progress since SLURM restarted it.

    Several ranks may call; the first one counts. Attempts are compared by the steps that they left. An attempt that ended
    before its first step, or with a node (`node_lost`), may have left as much as the one before, FRUITLESS times.
    """
    job, attempt = os.environ["SLURM_JOB_ID"], attempt_name()
    left, done = steps_left(stage, run, attempt)
    record = run / "requeues.json"
    asked = read_if_whole(record, RequeuesFile, []) or RequeuesFile()
    before = getattr(asked, stage) or Requeue()
    if before.job == job and before.attempt == attempt:  # another rank of this attempt was first
        return
    # Another job is another time limit. This job has been restarted since it asked: that request was granted.
    least, fruitless = (before.left, before.fruitless) if before.job == job else (None, 0)
    progressed = left is not None and (least is None or left < least)
    fruitless = 0 if progressed else fruitless + 1
    if fruitless > (FRUITLESS if node_lost or left is None else 0):
        raise _recorded(run, stage, done, StageFailed(
            f"{run}: {stage} got no further than {done or 0} since its last requeue; raise its time limit (resources) or save "
            "more often (train.save_interval)", kind="no progress"))
    if follow_ups() == 0:
        raise _recorded(run, stage, done, StageFailed(
            f"{run}: {stage} is saved, and no follow-up job is left to resume it; submit again, or raise its time limit "
            "(resources) or follow_ups (cluster profile)", kind="no requeue"))
    now = Requeue(job, attempt, left if progressed else least, fruitless)
    write_json(record, asdict(replace(asked, **{stage: now})))
    if follow_ups():
        ask_success()
    else:
        ask_requeue(run, stage, done, now=node_lost)


def _recorded(run: Path, stage: str, done: int | None, error: StageFailed) -> StageFailed:
    """Return `error`, which the run's failure.json holds now."""
    write_failure(run, describe(error, stage, done, node_name(), int(os.environ["SLURM_PROCID"])))
    return error


def steps_left(stage: str, run: Path, attempt: str) -> tuple[int | None, int | None]:
    """(steps that this attempt left, steps that it shows as done); None if it has not come to its first step."""
    progress = read_if_whole(run / "progress.json", ProgressFile, [])
    if progress is None or (progress.stage, progress.attempt) != (stage, attempt):
        return None, None
    if progress.total is None or progress.done is None:
        return None, None
    return progress.total - progress.done, progress.done
