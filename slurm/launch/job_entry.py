"""What runs on the cluster, once per rank: one stage of one run, and what becomes of its job afterwards."""

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
    """The function that submitit calls on every rank; its arguments are all that a job carries.

    `workdir`: where relative paths of the spec start. A stage that was stopped in good time goes back into the queue, once
    for all ranks, as long as it gets on; one that failed raises, so that SLURM sees it and what depends on it does not start.
    """
    os.chdir(workdir)
    run, attempt = Path(run_path), os.environ.get("SLURM_RESTART_COUNT", "0")
    outcome = run_stage(stage, run_path, meeting=f"{os.environ['SLURM_JOB_ID']}-{attempt}")
    state = outcome["state"]
    if state == "done":
        # Python takes its handlers away as it ends; the warning of a time limit would then fail a job that is done.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        return outcome
    if state == "interrupted":
        if outcome["signal"] not in ("SIGTERM", "SIGINT") and int(os.environ["SLURM_PROCID"]) == 0:
            requeue(stage, run, attempt)
        _wait_for_kill()
    if state == "abandoned":
        # If a rank failed, srun is ending the others; if its node died, SLURM will not know for minutes, and whoever is
        # left asks for a new start.
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(1))
        time.sleep(SRUN_REACTS_S)
        requeue(stage, run, attempt)
        _wait_for_kill()
    hold_if_alike(run)
    raise StageFailed(outcome["message"])


def report_in_slurm(study_path: str, workdir: str) -> str:
    """The last job of a study: its report, whatever became of the runs."""
    from jobs.report.write import report

    os.chdir(workdir)
    return str(report(Path(study_path)))


def requeue(stage: str, run: Path, attempt: str) -> None:
    """Send this job back into the queue. Raises StageFailed where the attempt before did not get the stage any further."""
    done = read_json(run / "progress.json")["done"]
    record = run / "requeues.json"
    before = read_json(record) if record.exists() else {}
    last = before.get(stage, {"done": None, "attempt": None})
    if last["attempt"] == [os.environ["SLURM_JOB_ID"], attempt]:  # another rank was quicker
        return
    if last["done"] == done:
        error = StageFailed(f"{run}: {stage} got no further than {done} since it was last requeued; raise its time limit "
                            "(resources) or save more often (train.save_interval)", kind="no progress")
        write_failure(run, describe(error, stage, done, os.uname().nodename, int(os.environ["SLURM_PROCID"])))
        raise error
    write_json(record, before | {stage: {"done": done, "attempt": [os.environ["SLURM_JOB_ID"], attempt]}})
    subprocess.run(["scontrol", "requeue", job_id()], check=True, timeout=60)


def job_id() -> str:
    """This job as scontrol takes it: 12, or 12_3 for an element of an array."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def _wait_for_kill() -> None:
    """All is saved, and SLURM is about to end the job: leaving first would make it look completed or failed.

    After scancel it becomes CANCELLED, after preemption SLURM requeues it by itself.
    """
    sys.stdout.flush()
    time.sleep(WAIT_FOR_KILL_S)
    sys.exit(1)
