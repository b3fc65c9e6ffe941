"""Run stages on this machine: submitit's local executor starts the processes, and this file follows them."""

import contextlib
import errno
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from submitit import LocalExecutor
from submitit.core.core import Job

from jobs.errors import StageFailed, UserError
from jobs.parallel.devices import VISIBLE, gpus_here
from jobs.run.directory import RunDir
from jobs.run.progress import NOTE, Bar
from jobs.run.records import ProgressFile
from jobs.spec.resources import StageResources
from jobs.stage import run_stage
from jobs.storage.files import make_dir
from jobs.storage.typed import read_record
from slurm.launch.local_ranks import Watch, descendants, outcome_of

FOREVER_MIN = 60 * 24 * 365  # submitit's default would stop a local job after two minutes
POLL_S = 0.25
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ONE_PRESS_S = 0.3  # some programs pass on a Ctrl-C that has reached us already
KEPT = {"train": "stopped; a checkpoint of the last step is saved",
        "sample": "stopped; finished chunks and the last step of unfinished ones are saved",
        "evaluate": "stopped; finished metrics are saved"}


class Interrupted(Exception):
    """The user stopped a stage; its state is saved."""


def run_locally(run: RunDir, stage: str) -> None:
    """Run one stage of `run` to its end on this machine.

    Raises UserError or StageFailed with the stage's own message, Interrupted after Ctrl-C or a kill.
    """
    if found := re.search("%[jtAa]", str(run.path.absolute())):  # submitit would replace it in the names of logs
        raise UserError(f"{run.path.absolute()}: {found[0]} in a path stands for the number of a job; choose another folder")
    resources = getattr(run.spec.resources, stage)
    tasks, gpus = processes_here(resources, gpus_here())
    if resources.gpus_per_node and not gpus:
        print(f"note: {stage} asks for GPUs and there are none here; using the CPU, processes: {tasks}", flush=True)
    make_dir(run.logs)
    executor = LocalExecutor(folder=run.logs / stage / "%j")
    executor.update_parameters(tasks_per_node=tasks, timeout_min=FOREVER_MIN, stderr_to_stdout=True)
    if resources.gpus_per_node and not gpus and VISIBLE in os.environ:
        gpus = [os.environ[VISIBLE]]  # CUDA may know better: hand the user's list on as it is
    # submitit makes CUDA_VISIBLE_DEVICES of the ranks from these, whatever the user set. Its own check takes only numbers, but
    # a GPU may also have a name (GPU-..., MIG-...).
    executor.parameters |= {"visible_gpus": tuple(gpus), "gpus_per_node": len(gpus)}
    attempt = uuid.uuid4().hex
    arguments = str(Path.cwd()), run_stage, stage, str(run.path.resolve()), attempt
    with _Stopping() as stopping:
        with _own_modules(run.logs):
            job = executor.submit(in_folder, *arguments)
        stopping.controller = _controller(job)
        watch = Watch(job, _controller(job))
        _follow(job, run, stage, attempt, stopping, watch)
    _repeat_notes(job.paths.stdout)
    try:
        _raise_if_not_done(job, run, stage, watch.killed)
    except (UserError, StageFailed) as error:
        if stopping.killed:
            raise Interrupted(f"{run.path}: {stage} killed; run again to resume from what was saved before") from error
        if stopping.asked:  # nothing further starts
            raise Interrupted(str(error)) from error
        raise
    if stopping.asked:  # Ctrl-C came when the stage was about to end: do not start the next one
        raise Interrupted(f"{run.path}: stopped after {stage}; run again to go on")


def in_folder(folder: str, work: Callable[..., dict[str, str]], *arguments: str) -> dict[str, str]:
    """Do `work` in the current folder of the command, from which relative paths in the spec start."""
    os.chdir(folder)
    return work(*arguments)


@contextmanager
def _own_modules(elsewhere: Path) -> Iterator[None]:
    """Let processes that start while the block lasts start in the folder `elsewhere`, which has no modules.

    submitit starts them as `python -m`, which looks into the current folder first: a user's jobs.py or queue.py there would be
    taken for a module of ours, or of Python's own.
    """
    path = [os.path.abspath(folder) for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    if sys.path[0] in ("", os.getcwd()):  # `python -m slurm.cli.main`: this very code is in the current folder
        path.insert(0, os.getcwd())
    before, folder = os.environ.get("PYTHONPATH"), os.getcwd()
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    os.chdir(elsewhere)
    try:
        yield
    finally:
        os.chdir(folder)
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def processes_here(resources: StageResources, present: list[str]) -> tuple[int, list[str]]:
    """(processes, names of their GPUs) for a stage where the GPUs called `present` exist: those of all nodes in the spec,
    limited by the GPUs."""
    if resources.gpus_per_node and present:
        gpus = present[:resources.gpus_per_node * resources.most_nodes]
        return (resources.tasks_per_node * resources.most_nodes if resources.tasks_per_node else len(gpus)), gpus
    return resources.tasks_per_node or 1, []


def _controller(job: Job) -> int:
    """Id of the process that started the ranks and passes signals to them: submitit names a local job by it."""
    return int(job.job_id)


class _Stopping:
    """Handles Ctrl-C and kills inside a `with` block: the first asks the stage to stop at its next step, a second kills it.

    A signal that is ignored at first stays ignored: `nohup` asks for that. A terminal that closes sends SIGHUP more than
    once; this never kills.
    """

    def __init__(self) -> None:
        self.asked = self.killed = False
        self.last = 0.0
        self.controller: int | None = None
        """Process whose children the second Ctrl-C kills."""

    def __enter__(self) -> "_Stopping":
        heard = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self.before = {number: signal.signal(number, self._hear) for number in heard}
        # The processes inherit the mask. Otherwise Ctrl-C in a terminal, or its end, would reach submitit's controller, which
        # would kill the ranks before they have saved. _follow asks them to stop with SIGTERM instead.
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        return self

    def __exit__(self, *_) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
        for number, handler in self.before.items():
            # After a stop this command only says what happened, and ends.
            signal.signal(number, signal.SIG_IGN if self.asked else handler)

    def _hear(self, number, frame) -> None:
        again, self.last = self.asked and time.monotonic() - self.last > ONE_PRESS_S, time.monotonic()
        if not self.asked:
            self.asked = True
            with contextlib.suppress(OSError):  # the terminal may be gone; print would not do in a handler that interrupts print
                os.write(2, b"\nstopping at the next step, saving first; press again to kill\n")
        elif again and number != signal.SIGHUP and self.controller is not None:
            self.killed = True
            for child in descendants(self.controller):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)


def _follow(job: Job, run: RunDir, stage: str, attempt: str, stopping: _Stopping, watch: Watch) -> None:
    """Show the progress until the job ends. After Ctrl-C, ask the ranks to stop."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGHUP})
    signalled = False
    bar = Bar(stage, 0, "")
    try:
        while not job.done():
            time.sleep(POLL_S)
            progress = _progress(run, attempt)
            if progress:
                bar.total, bar.unit = progress.total or 0, progress.unit
                loss = f"loss {progress.loss:.4f}" if progress.loss is not None else ""
                bar.show(progress.done or 0, progress.rate, progress.doing or loss, certain=progress.left_s is not None)
                if stopping.asked and not signalled:  # not earlier: processes that are still starting would die
                    os.kill(_controller(job), signal.SIGTERM)  # the controller passes the signal to all ranks
                    signalled = True
            else:
                bar.show(0, None, "starting")
                watch.look()
    finally:
        bar.close()


def _repeat_notes(log: Path) -> None:
    """Print the notes (`jobs.run.progress.note`) from the log of the main rank."""
    if log.exists():
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith(NOTE):
                print(line, flush=True)


def _full_disk(log: Path) -> str:
    """The system's words at the end of a log for a disk that takes nothing more; empty if there are none."""
    end = _end_of(log)
    return next((words for words in map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EROFS)) if words in end), "")


def _end_of(log: Path) -> str:
    """The last 4 KB of a log; empty if there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _progress(run: RunDir, attempt: str) -> ProgressFile | None:
    """The content of progress.json; None if this attempt has not written the file yet."""
    try:
        progress = read_record(run.progress, ProgressFile)
    except (OSError, UserError):
        return None
    return progress if progress.attempt == attempt else None


def _raise_if_not_done(job: Job, run: RunDir, stage: str, killed: Collection[int]) -> None:
    """Raise the most informative of the ranks' outcomes; return if all ranks are done. `killed`: ranks not to blame."""
    outcomes = {rank: outcome_of(job, rank) for rank in range(job.num_tasks) if rank not in killed}
    by_state = {outcome["state"]: outcome["message"] for outcome in reversed(outcomes.values())}
    log = job.paths.stdout
    if "refused" in by_state:
        raise UserError(by_state["refused"])
    if "lost" in by_state:  # before "failed": the other ranks fail because this one is missing
        ranks = [str(rank) for rank, outcome in outcomes.items() if outcome["state"] == "lost"]
        if full := _full_disk(log):
            raise UserError(f"{run.path}: {stage}: {full.lower()}: rank {', '.join(ranks)} could not even say so; mend that and "
                            f"repeat the command. Log: {log}")
        raise StageFailed(f"{run.path}: {stage}: rank {', '.join(ranks)} died without a message (killed, or out of memory?); "
                          f"run again to go on. Log: {log}")
    if "failed" in by_state or "abandoned" in by_state:
        message = by_state.get("failed") or by_state["abandoned"]
        if "Traceback" in message:
            message = f"{run.path}: {stage} failed: {message.strip().splitlines()[-1]}"
        raise StageFailed(f"{message}\nLog: {log}")
    if "interrupted" in by_state:
        raise Interrupted(f"{run.path}: {stage} {KEPT[stage]}; run again to go on")
