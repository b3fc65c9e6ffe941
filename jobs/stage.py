"""The callables that a launcher runs, one process per rank: submitit's local executor, SLURM, or torchrun.

    torchrun --nproc-per-node 2 -m jobs.stage train runs/quickstart/run
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import Busy, UserError
from jobs.parallel.devices import node_name
from jobs.parallel.interruption import Interruption
from jobs.parallel.terminal import outlive_output
from jobs.run.directory import NoSuchStage, RunDir
from jobs.run.failures import Failure, describe, remove_failure, write_failure
from jobs.run.progress import ATTEMPT, note
from jobs.run.records import ProgressFile
from jobs.run.waiting import check_named_runs
from jobs.spec.precisions import Precision
from jobs.spec.sections import ranks_to_use
from jobs.spec.stages import STAGES
from jobs.storage.disk_errors import explained
from jobs.storage.files import private_to_write, remove_leftovers
from jobs.storage.typed import read_record
from jobs.terminal import guarded_output

if TYPE_CHECKING:
    from jobs.parallel.group import Group


def run_stage(stage: str, run_path: str, meeting: str) -> dict[str, str]:
    """Do this rank's part of one stage. `meeting` names this attempt, so that its ranks find each other.

    Returns {"state": ..., "message": ..., "signal": ...}: a plain dict, whatever happens. The state is "done",
    "interrupted", "refused" (bad input), "failed", or "abandoned" (another rank vanished). "signal" names what interrupted
    this rank, if anything did.
    """
    private_to_write()
    with guarded_output():
        return _run_stage(stage, run_path, meeting)


def _run_stage(stage: str, run_path: str, meeting: str) -> dict[str, str]:
    interruption = Interruption()
    outlive_output()
    os.environ[ATTEMPT] = meeting
    run = RunDir(Path(run_path))
    run = run.trainer if stage == STAGES[0] else run
    meeting_file = run.path / f".meeting-{meeting}"
    try:
        run.check_has(stage)
        state, message = _in_group(stage, run, meeting_file, interruption), ""
    except (Busy, NoSuchStage) as error:  # the run is fine: somebody else is at work on it, or there is no such work
        state, message = "refused", str(error)
    except Exception as raised:
        reason = explained(raised) if isinstance(raised, OSError) else raised
        failure = _keep(reason, stage, run)
        state = {"bad input": "refused", "node or network": "abandoned"}.get(failure.kind, "failed")
        message = failure.traceback or str(reason)
        if failure.traceback:
            print(message, file=sys.stderr, flush=True)
    return {"state": state, "message": message, "signal": interruption.by}


def _keep(error: Exception, stage: str, run: RunDir) -> Failure:
    """Write the run's failure.json, as far as the disk still takes it."""
    from jobs.parallel.group import rank_info

    done = None
    with contextlib.suppress(OSError, UserError):
        progress = read_record(run.progress, ProgressFile)
        done = progress.done if progress.stage == stage else None
    failure = describe(error, stage, done, node_name(), rank_info().rank)
    with contextlib.suppress(OSError, UserError):
        if run.spec_file.is_file():
            write_failure(run.path, failure)
    return failure


def _in_group(stage: str, run: RunDir, meeting_file: Path, interruption: Interruption) -> str:
    from jobs.evaluation.evaluate import evaluate
    from jobs.parallel.compiling import keep_compiled_code
    from jobs.parallel.determinism import repeating
    from jobs.parallel.group import on_main, process_group, rank_info
    from jobs.parallel.node_check import check_nodes
    from jobs.parallel.precision import computing_in
    from jobs.sampling.loop import sample
    from jobs.training.loop import train

    work = {"train": train, "sample": sample, "evaluate": evaluate}[stage]
    resources = getattr(run.spec.resources, stage)
    here = rank_info()
    ranks = ranks_to_use(run.spec.train, here.world_size) if stage == "train" and resources.is_elastic else here.world_size
    if here.rank >= ranks:
        print(f"rank {here.rank} is not needed: {ranks} of {here.world_size} ranks share train.batch_size evenly", flush=True)
        return "done"
    settings = getattr(run.spec, stage)
    if getattr(settings, "compile", False):
        keep_compiled_code(run.path.parent.parent / ".cache" / "compiled")
    precision: Precision = getattr(settings, "precision", "fp32")  # an evaluation is always in fp32
    with (process_group(meeting_file, resources.threads, gpu=resources.gpus_per_node > 0, ranks=ranks) as group,
          computing_in(precision, group.device), repeating(getattr(settings, "deterministic", True), group.device),
          contextlib.ExitStack() as held):
        on_main(lambda: held.enter_context(run.exclusively()))
        on_main(lambda: remove_leftovers(run.path))
        on_main(lambda: remove_failure(run.path))
        on_main(lambda: check_named_runs(run, stage))
        check_nodes(group)
        if group.is_main and ranks < here.world_size:
            note(f"{here.world_size} ranks were granted, and training takes {ranks} of them: the most that share "
                 f"train.batch_size {run.spec.train.batch_size} evenly; the others end now")
        began, state = time.time(), "failed"
        try:
            state = work(run, group, interruption)
        finally:
            if group.is_main:
                _record(run, stage, state, began, group)
        return state


def _record(run: RunDir, stage: str, state: str, began: float, group: "Group") -> None:
    """Add this attempt to the run's stages.jsonl, from which the report tells what it cost."""
    attempt = {"stage": stage, "state": state, "started": began, "seconds": time.time() - began,
               "world_size": group.world_size, "device": group.device_name}
    with contextlib.suppress(OSError), open(run.path / "stages.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(attempt) + "\n")


def main() -> int:
    """`python -m jobs.stage STAGE RUN`, alone or under torchrun. Exit status as the command line has it."""
    if len(sys.argv) != 3 or sys.argv[1] not in STAGES:
        print(f"usage: [torchrun ...] -m jobs.stage {{{','.join(STAGES)}}} RUN", file=sys.stderr)
        return 2
    outcome = run_stage(sys.argv[1], sys.argv[2], meeting=f"pid-{os.getpid()}")
    if outcome["message"] and "Traceback" not in outcome["message"]:
        with guarded_output():
            print(f"iddpm: error: {outcome['message']}", file=sys.stderr)
    return {"done": 0, "interrupted": 3, "refused": 2, "failed": 1, "abandoned": 1}[outcome["state"]]


if __name__ == "__main__":
    sys.exit(main())
