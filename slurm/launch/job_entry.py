"""The functions that SLURM's jobs run, once on every rank: do one stage of one run, then end, requeue or fail the job."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from jobs.errors import StageFailed
from jobs.parallel.interruption import SIGNALS
from jobs.run.failures import describe, write_failure
from jobs.stage import run_stage
from jobs.storage.files import read_json, write_json
from slurm.launch.hold import hold_if_alike

WAIT_FOR_KILL_S = 120
SRUN_REACTS_S = 10


def run_in_slurm(stage: str, run_path: str, workdir: str) -> dict[str, str]:
    """Do this rank's part of `stage`. submitit calls this function; its arguments are all that a job carries.

    `workdir`: the folder that relative paths in the spec start from. If the stage was interrupted in time, one rank puts the
    job back into the queue, as long as each attempt makes progress. If the stage failed, raises StageFailed: SLURM then marks
    the job as failed and does not start the jobs that depend on it.
    """
    os.chdir(workdir)
    run, attempt = Path(run_path), os.environ.get("SLURM_RESTART_COUNT", "0")
    outcome = run_stage(stage, run_path, meeting=f"{os.environ['SLURM_JOB_ID']}-{attempt}")
    state = outcome["state"]
    if state == "done":
        # Python removes its signal handlers when it exits. A warning of the time limit would then fail a finished job.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        return outcome
    if state == "interrupted":
        if outcome["signal"] not in ("SIGTERM", "SIGINT") and int(os.environ["SLURM_PROCID"]) == 0:
            ask_for_requeue(stage, run, attempt)
        _wait_for_kill()
    if state == "abandoned":
        # If another rank failed, srun is about to end this one with SIGTERM. If its node died, SLURM notices only after
        # minutes: the remaining ranks ask for the requeue.
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(1))
        time.sleep(SRUN_REACTS_S)
        ask_for_requeue(stage, run, attempt)
        _wait_for_kill()
    hold_if_alike(run)
    raise StageFailed(outcome["message"])


def report_in_slurm(study_path: str, workdir: str) -> str:
    """Write the study's report, from whatever its runs have. This is the last job of a study."""
    from jobs.report.write import report

    os.chdir(workdir)
    return str(report(Path(study_path)))


def ask_for_requeue(stage: str, run: Path, attempt: str) -> None:
    """Ask SLURM to put this job back into the queue. Raises StageFailed if the stage made no progress since the last requeue.

    `attempt`: how often SLURM has restarted the job (SLURM_RESTART_COUNT). Several ranks may call; the first one counts.
    """
    done = read_json(run / "progress.json")["done"]
    record = run / "requeues.json"
    before = read_json(record) if record.exists() else {}
    last = before.get(stage, {"done": None, "attempt": None})
    if last["attempt"] == [os.environ["SLURM_JOB_ID"], attempt]:  # another rank of this attempt was first
        return
    if last["done"] == done:
        error = StageFailed(f"{run}: {stage} got no further than {done} since its last requeue; raise its time limit "
                            "(resources) or save more often (train.save_interval)", kind="no progress")
        write_failure(run, describe(error, stage, done, os.uname().nodename, int(os.environ["SLURM_PROCID"])))
        raise error
    write_json(record, before | {stage: {"done": done, "attempt": [os.environ["SLURM_JOB_ID"], attempt]}})
    subprocess.run(["scontrol", "requeue", job_id()], check=True, timeout=60)


def job_id() -> str:
    """The id of this job as scontrol takes it: 12, or 12_3 for an element of an array."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def _wait_for_kill() -> None:
    """Sleep until SLURM ends the job. If this rank exited first, SLURM would record the job as completed or failed.

    After scancel SLURM records CANCELLED; after preemption it requeues the job by itself.
    """
    sys.stdout.flush()
    time.sleep(WAIT_FOR_KILL_S)
    sys.exit(1)
