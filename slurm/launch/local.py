"""Running stages on this machine: submitit's local executor starts the processes, this follows them."""

import os
import signal
import sys
import time
import uuid
from pathlib import Path

from submitit import LocalExecutor
from submitit.core.core import Job

from jobs.errors import StageFailed, UserError
from jobs.run.directory import RunDir
from jobs.run.progress import NOTE, Bar
from jobs.spec.sections import StageResources
from jobs.stage import run_stage
from jobs.storage.files import make_dir, read_json

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
    executor = LocalExecutor(folder=run.logs / stage / "%j")
    executor.update_parameters(tasks_per_node=tasks, gpus_per_node=gpus, timeout_min=FOREVER_MIN, stderr_to_stdout=True)
    began = time.time()
    with _Stopping() as stopping:
        job = executor.submit(run_stage, stage, str(run.path.resolve()), uuid.uuid4().hex)
        stopping.job = job
        _follow(job, run, stage, began, stopping)
    _repeat_notes(job.paths.stdout)
    _judge(job, run, stage)
    if stopping.asked:  # it came too late for this stage, not for the next
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


class _Stopping:
    """Counts Ctrl-C and kills while the block lasts: the first asks the stage to stop at its next step, a second kills it."""

    def __init__(self):
        self.asked = 0
        self.job: Job | None = None

    def __enter__(self) -> "_Stopping":
        self.before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        # For the processes, which inherit it: submitit's controller would otherwise take Ctrl-C as an order to kill the
        # ranks before they have saved. They hear of it from us, by SIGTERM.
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        return self

    def __exit__(self, *_) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        self.asked += 1
        if self.asked == 1:
            print("\nstopping at the next step boundary, saving first; once more to kill", file=sys.stderr, flush=True)
        elif self.job is not None:
            for child in _descendants(int(self.job.job_id)):
                os.kill(child, signal.SIGKILL)


def _follow(job: Job, run: RunDir, stage: str, began: float, stopping: _Stopping) -> None:
    """Show progress until the job ends; pass on that it is to stop."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    told = False
    bar = Bar(stage, 1, "")
    bar.show(0, None, "starting")
    try:
        while not job.done():
            time.sleep(POLL_S)
            progress = _progress(run, stage, began)
            if progress:
                bar.total, bar.unit = progress["total"], progress["unit"]
                note = f"loss {progress['loss']:.4f}" if progress["loss"] is not None else ""
                bar.show(progress["done"], progress["rate"], note)
                if stopping.asked and not told:  # not before: processes that are still starting would just die
                    os.kill(int(job.job_id), signal.SIGTERM)  # the controller passes it to all ranks
                    told = True
    finally:
        bar.close()


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
    # The processes are gone: a result that is not there will not come, and submitit would look out for it for 15 seconds.
    tasks = [job.task(rank) for rank in range(job.num_tasks)]
    outcomes = [task.result() if task.paths.result_pickle.exists() else {"state": "lost", "message": ""} for task in tasks]
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
