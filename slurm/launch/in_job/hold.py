"""Put a sweep on hold when several of its runs fail for the same reason, so that the others do not waste GPU hours."""

import time
from pathlib import Path

from jobs.errors import UserError
from jobs.run.failures import Failure, read_failure
from jobs.run.records import ProgressFile
from jobs.run.study.study_file import study_as_found
from jobs.spec.stages import STAGES
from jobs.storage.typed import read_record
from slurm.launch.in_job.requests import ask_hold
from slurm.launch.records import recorded

ALIKE = 3  # runs that must fail for the same reason
# Kinds of failure that say nothing about other runs of the sweep.
OWN = ("diverged", "not finite", "node or network", "hardware", "no progress", "no requeue", "killed")


def hold_if_alike(run: Path) -> None:
    """Ask to hold the pending jobs of the study if at least ALIKE of its runs, `run` among them, failed for the same reason.

    Called after a stage of `run` has failed. The study goes on if as many runs got past the point of the failure: then
    the cause lies in a setting that the sweep varies.
    """
    study, failure = run.parent, read_failure(run)
    if failure is None or failure.kind in OWN or (study / "held.json").exists():
        return
    names = [name for name, entry in study_as_found(study)[0].runs.items() if not entry.left]
    alike = [name for name in names if _failed_alike(study / name, failure)]
    if len(alike) < ALIKE or sum(_got_further(study / name, failure) for name in names) >= len(alike):
        return
    jobs, reports = to_hold(study, failure.stage)
    ask_hold(study, {"time": time.time(), "kind": failure.kind, "message": failure.message, "runs": alike, "jobs": jobs},
             jobs, reports)


def to_hold(study: Path, failing: str) -> tuple[list[str], list[str]]:
    """Ids of the study's jobs and arrays of the stages up to `failing`, and of its reports, from the records of submissions.

    Jobs of later stages are not held: they wait for the held jobs anyway, and SLURM must be able to cancel the later jobs of
    failed runs.
    """
    stages, known = STAGES[:STAGES.index(failing) + 1], [each for each in recorded(study, {}, []) if each.job_id is not None]
    return ([str(each.job_id) for each in known if each.stage in stages],
            [str(each.job_id) for each in known if not each.runs])


def _failed_alike(run: Path, failure: Failure) -> bool:
    other = read_failure(run)
    return other is not None and other.signature == failure.signature


def _got_further(run: Path, failure: Failure) -> bool:
    """Whether `run` got past the point where `failure` happened."""
    try:
        progress = read_record(run / "progress.json", ProgressFile)
    except (OSError, UserError):
        return False
    stage = STAGES.index(progress.stage) - STAGES.index(failure.stage)
    return stage > 0 or (stage == 0 and (progress.state == "done" or (progress.done or 0) > (failure.done or 0)))
