"""Running stages on this machine: submitit's local executor starts the processes, this follows them."""

import os
import signal
import sys
import time
import uuid
from pathlib import Path

from submitit import LocalExecutor
from submitit.core.core import Job
from submitit.core.utils import UncompletedJobError

from jobs.errors import StageFailed, UserError
from jobs.files import make_dir, read_json
from jobs.progress import NOTE, Bar
from jobs.rundir import RunDir
from jobs.spec import StageResources
from jobs.stage import run_stage

FOREVER_MIN = 60 * 24 * 365  # submitit would stop a local job after two minutes; a time limit is for clusters
POLL_S = 0.25
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KEPT = {"train": "stopped, with a checkpoint of where it was", "sample": "stopped; the finished chunks are kept",
        "evaluate": "stopped; it starts over next time"}


class Interrupted(Exception):
    """The person at the keyboard stopped a stage; what it had done is saved."""


def run_locally(run: RunDir, stage: str) -> None:
    """Run one stage of `run` to its end on this machine.

    Raises UserError or StageFailed with the stage's own message, Interrupted after Ctrl-C or a kill.
    """
    wanted = getattr(run.spec.resources, stage)
    tasks, gpus = processes_here(wanted)
    if wanted.gpus_per_node and not gpus:
        print(f"note: {stage} asks for GPUs and there are none here; going on on the CPU, processes: {tasks}", flush=True)
    make_dir(run.logs)
    # Ctrl-C waits until `_follow` is ready for it. The processes inherit this: submitit's controller would otherwise kill
    # the ranks before they have saved; they hear of it by SIGTERM.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    executor = LocalExecutor(folder=run.logs / stage / "%j")
    executor.update_parameters(tasks_per_node=tasks, gpus_per_node=gpus, timeout_min=FOREVER_MIN, stderr_to_stdout=True)
    began = time.time()
    job = executor.submit(run_stage, stage, str(run.path.resolve()), uuid.uuid4().hex)
    asked_to_stop = _follow(job, run, stage, began)
    _repeat_notes(job.paths.stdout)
    _judge(job, run, stage)
    if asked_to_stop:  # it came too late for this stage, not for the next
        raise Interrupted(f"{run.path}: stopped after {stage}; run again to go on")


def processes_here(wanted: StageResources) -> tuple[int, int]:
    """(processes, GPUs) for a stage on this one machine: what the spec asks of all its nodes, as far as there are GPUs."""
    present = gpus_here()
    if wanted.gpus_per_node and present:
        gpus = min(wanted.gpus_per_node * wanted.nodes, present)
        return (wanted.tasks_per_node * wanted.nodes if wanted.tasks_per_node else gpus), gpus
    return wanted.tasks_per_node or 1, 0


def gpus_here() -> int:
    """How many NVIDIA GPUs this process may use, without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len([path for path in Path("/dev").glob("nvidia[0-9]*")])


def _follow(job: Job, run: RunDir, stage: str, began: float) -> bool:
    """Show progress until the job ends. The first Ctrl-C or kill asks it to stop at its next step, a second kills it.

    Returns whether it was asked to.
    """
    stopping, told = 0, False

    def stop(number, frame) -> None:
        nonlocal stopping
        stopping += 1
        if stopping == 1:
            print("\nstopping at the next step boundary, saving first; once more to kill", file=sys.stderr, flush=True)
        else:
            for child in _descendants(job._process.pid):
                os.kill(child, signal.SIGKILL)

    bar = Bar(stage, 1, "")
    bar.show(0, None, "starting")
    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        while not job.done():
            time.sleep(POLL_S)
            progress = _progress(run, stage, began)
            if progress:
                bar.total, bar.unit = progress["total"], progress["unit"]
                note = f"loss {progress['loss']:.4f}" if progress["loss"] is not None else ""
                bar.show(progress["done"], progress["rate"], note)
                if stopping and not told:  # not before: processes that are still starting would just die
                    job._process.send_signal(signal.SIGTERM)  # the controller passes it to all ranks
                    told = True
    finally:
        bar.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    return stopping > 0


def _repeat_notes(log: Path) -> None:
    """What the main rank said that should not stay in its log alone."""
    if log.exists():
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith(NOTE):
                print(line, flush=True)


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(child) for child in children.read_text().split()] if children.exists() else []
    return found + [grandchild for child in found for grandchild in _descendants(child)]


def _progress(run: RunDir, stage: str, began: float) -> dict | None:
    """progress.json, where this attempt wrote it."""
    try:
        progress = read_json(run.progress)
    except (OSError, UserError):
        return None
    return progress if progress["stage"] == stage and progress["heartbeat"] >= began else None


def _judge(job: Job, run: RunDir, stage: str) -> None:
    """Turn the ranks' outcomes into one: the most telling message of all."""
    outcomes = []
    for rank in range(job.num_tasks):
        try:
            outcomes.append(job.task(rank).result())
        except UncompletedJobError:
            outcomes.append({"state": "lost", "message": ""})
    by_state = {outcome["state"]: outcome["message"] for outcome in reversed(outcomes)}
    log = job.paths.stdout
    if "refused" in by_state:
        raise UserError(by_state["refused"])
    if "lost" in by_state:  # the others then fail for want of it
        ranks = [str(rank) for rank, outcome in enumerate(outcomes) if outcome["state"] == "lost"]
        raise StageFailed(f"{run.path}: {stage}: rank {', '.join(ranks)} died without a word (killed, or out of memory?); "
                          f"run again to go on. Log: {log}")
    if "failed" in by_state or "abandoned" in by_state:
        message = by_state.get("failed") or by_state["abandoned"]
        if "Traceback" in message:
            message = f"{run.path}: {stage} failed: {message.strip().splitlines()[-1]}"
        raise StageFailed(f"{message}\nLog: {log}")
    if "interrupted" in by_state:
        raise Interrupted(f"{run.path}: {stage} {KEPT[stage]}; run again to go on")
