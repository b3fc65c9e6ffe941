"""Put a sweep on hold when several of its runs fail for the same reason, so that the others do not waste GPU hours."""

import sys
import time
from pathlib import Path

from jobs.errors import StageFailed, UserError
from jobs.run.failures import Failure, read_failure
from jobs.run.study_file import left_of, recorded_runs
from jobs.spec.stages import STAGES
from jobs.storage.files import read_json, write_json
from slurm.launch.records import jobs_by_run, reports
from slurm.launch.squeue import command, compact, live_jobs

ALIKE = 3  # runs that must fail for the same reason
# Kinds of failure that say nothing about other runs of the sweep.
OWN = ("diverged", "not finite", "node or network", "no progress", "killed")


def hold_if_alike(run: Path) -> None:
    """Hold the pending jobs of the study if at least ALIKE of its runs, `run` among them, failed for the same reason.

    Called after a stage of `run` has failed. The study goes on if as many runs got past the point of the failure: then
    the cause lies in a setting that the sweep varies.
    """
    study, failure = run.parent, read_failure(run)
    if failure is None or failure.kind in OWN or (study / "held.json").exists():
        return
    left = left_of(study)
    names = [name for name in recorded_runs(study) if name not in left]
    alike = [name for name in names if _failed_alike(study / name, failure)]
    if len(alike) < ALIKE or sum(_got_further(study / name, failure) for name in names) >= len(alike):
        return
    try:
        held = hold(study, failure.stage)
        write_json(study / "held.json", {"time": time.time(), "kind": failure.kind, "message": failure.message, "runs": alike,
                                         "jobs": held})
    except (StageFailed, UserError) as error:  # some clusters do not let a job hold jobs; the failure of `run` matters more
        print(f"the rest of the sweep could not be put on hold: {error}", file=sys.stderr, flush=True)


def hold(study: Path, failing: str) -> list[str]:
    """Hold the study's pending jobs of the stages up to `failing`, and let its report start. Returns the held job ids.

    Jobs of later stages are not held: they wait for the held jobs anyway, and SLURM must be able to cancel the later jobs of
    failed runs.
    """
    live, stages = live_jobs(), STAGES[:STAGES.index(failing) + 1]
    pending = [job.id for (_, stage), job in jobs_by_run(study, live).items() if stage in stages and job.state == "PENDING"]
    arrays = compact(pending)
    for array in arrays:
        try:
            command("scontrol", "hold", array)
        except StageFailed as error:  # some elements have started meanwhile; scontrol has held the others
            print(error, file=sys.stderr, flush=True)
    for job in reports(study, live):
        command("scontrol", "update", f"JobId={job.id}", "Dependency=")
    return arrays


def _failed_alike(run: Path, failure: Failure) -> bool:
    other = read_failure(run)
    return other is not None and other.signature == failure.signature


def _got_further(run: Path, failure: Failure) -> bool:
    """Whether `run` got past the point where `failure` happened."""
    try:
        progress = read_json(run / "progress.json")
    except (OSError, UserError):
        return False
    stage = STAGES.index(progress["stage"]) - STAGES.index(failure.stage)
    return stage > 0 or (stage == 0 and (progress["state"] == "done" or progress["done"] > (failure.done or 0)))
