"""A sweep whose runs fail one after another of the same is put on hold, not burnt."""

import sys
import time
from pathlib import Path

from jobs.errors import StageFailed, UserError
from jobs.run.failures import Failure, read_failure
from jobs.spec.sections import STAGES
from jobs.storage.files import read_json, write_json
from slurm.launch.records import jobs_by_run, reports
from slurm.launch.squeue import command, compact, live_jobs

ALIKE = 3
# What lies in the run's own settings, or passes by itself: the other runs may well come through.
OWN = ("diverged", "node or network", "no progress", "killed")


def hold_if_alike(run: Path) -> None:
    """Called where a stage of `run` has failed: holds the study's pending jobs once ALIKE runs failed of the same.

    Not if as many runs got beyond the point where these fell: then it is a matter of the settings that the sweep varies.
    """
    study, failure = run.parent, read_failure(run)
    if failure is None or failure.kind in OWN or (study / "held.json").exists():
        return
    names = list(read_json(study / "study.json")["runs"])
    alike = [name for name in names if _fell_alike(study / name, failure)]
    if len(alike) < ALIKE or sum(_beyond(study / name, failure) for name in names) >= len(alike):
        return
    try:
        held = hold(study, failure.stage)
        write_json(study / "held.json", {"time": time.time(), "kind": failure.kind, "message": failure.message, "runs": alike,
                                         "jobs": held})
    except (StageFailed, UserError) as error:  # a cluster that does not let jobs hold jobs: no reason to fail otherwise
        print(f"the rest of the sweep could not be put on hold: {error}", file=sys.stderr, flush=True)


def hold(study: Path, failing: str) -> list[str]:
    """Put the study's pending jobs up to the `failing` stage on hold and let its report go ahead; ids of what is held.

    Later stages wait for these anyway, and those of the failed runs have to be cancelled by SLURM.
    """
    live, stages = live_jobs(), STAGES[:STAGES.index(failing) + 1]
    pending = [job.id for (_, stage), job in jobs_by_run(study, live).items() if stage in stages and job.state == "PENDING"]
    arrays = compact(pending)
    for array in arrays:
        try:
            command("scontrol", "hold", array)
        except StageFailed as error:  # it says so for elements that started meanwhile, and holds the others
            print(error, file=sys.stderr, flush=True)
    for job in reports(study, live):
        command("scontrol", "update", f"JobId={job.id}", "Dependency=")
    return arrays


def _fell_alike(run: Path, failure: Failure) -> bool:
    other = read_failure(run)
    return other is not None and other.signature == failure.signature


def _beyond(run: Path, failure: Failure) -> bool:
    """Whether this run got further than where the failed one fell."""
    try:
        progress = read_json(run / "progress.json")
    except (OSError, UserError):
        return False
    stage = STAGES.index(progress["stage"]) - STAGES.index(failure.stage)
    return stage > 0 or (stage == 0 and (progress["state"] == "done" or progress["done"] > (failure.done or 0)))
