"""The callables that a launcher runs, one process per rank: submitit's local executor, SLURM, or torchrun.

    torchrun --nproc-per-node 2 -m jobs.stage train runs/quickstart/run
"""

import contextlib
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import StageFailed, UserError
from jobs.files import remove_leftovers
from jobs.rundir import RunDir

if TYPE_CHECKING:
    from jobs.interruption import Interruption

STAGES = ("train", "sample", "evaluate")


def run_stage(stage: str, run_path: str, meeting: str) -> dict[str, str]:
    """Do this rank's part of one stage. `meeting` names this attempt, so that its ranks find each other.

    Returns {"state": ..., "message": ..., "signal": ...}: a plain dict, whatever happens. The state is "done",
    "interrupted", "refused" (bad input), "failed", or "abandoned" (another rank vanished). "signal" names what interrupted
    this rank, if anything did.
    """
    from jobs.interruption import Interruption

    interruption = Interruption()
    run = RunDir(Path(run_path))
    meeting_file = run.path / f".meeting-{meeting}"
    try:
        state, message = _in_group(stage, run, meeting_file, interruption), ""
    except UserError as error:
        state, message = "refused", str(error)
    except StageFailed as error:
        state, message = "failed", str(error)
    except Exception as error:
        state, message = "abandoned" if _lost_a_rank(error) else "failed", traceback.format_exc()
        print(message, file=sys.stderr, flush=True)
    return {"state": state, "message": message, "signal": interruption.by}


def _lost_a_rank(error: Exception) -> bool:
    """Whether this is how gloo, NCCL or the store tell that another process of the group is gone."""
    import torch.distributed as dist
    return isinstance(error, dist.DistError) or any(
        words in str(error) for words in ("onnection closed by peer", "onnection reset by peer", "Broken pipe", "NCCL"))


def _in_group(stage: str, run: RunDir, meeting_file: Path, interruption: "Interruption") -> str:
    from jobs.distributed import on_main, process_group
    from jobs.evaluate import evaluate
    from jobs.sample import sample
    from jobs.train import train

    work = {"train": train, "sample": sample, "evaluate": evaluate}[stage]
    threads = getattr(run.spec.resources, stage).cpus_per_task
    with process_group(meeting_file, threads) as group, contextlib.ExitStack() as held:
        on_main(lambda: held.enter_context(run.exclusively()))
        on_main(lambda: remove_leftovers(run.path))
        return work(run, group, interruption)


def main() -> int:
    """`python -m jobs.stage STAGE RUN`, alone or under torchrun. Exit status as the command line has it."""
    if len(sys.argv) != 3 or sys.argv[1] not in STAGES:
        print(f"usage: [torchrun ...] -m jobs.stage {{{','.join(STAGES)}}} RUN", file=sys.stderr)
        return 2
    outcome = run_stage(sys.argv[1], sys.argv[2], meeting=f"pid-{os.getpid()}")
    if outcome["message"] and "Traceback" not in outcome["message"]:
        print(f"iddpm: error: {outcome['message']}", file=sys.stderr)
    return {"done": 0, "interrupted": 3, "refused": 2, "failed": 1, "abandoned": 1}[outcome["state"]]


if __name__ == "__main__":
    sys.exit(main())
