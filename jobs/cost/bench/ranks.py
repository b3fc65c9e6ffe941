"""How training scales over the processes of this machine: several ranks against one, in turns."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from jobs.cost.bench.file import Scaling, Variant, checkpointing, quartiles_of
from jobs.cost.bench.timing import Repeats, seconds_of
from jobs.cost.bench.work import random_images, training_work
from jobs.parallel.group import process_group
from jobs.spec.sections import Spec
from jobs.training.state import new_state

PATIENCE_S = 600  # for one answer of the ranks; the first includes the start of the processes


@dataclass(frozen=True)
class RankProcesses:
    """Processes that train together, as many steps at a time as they are sent."""

    connections: Sequence[Connection]
    processes: Sequence[BaseProcess]

    def seconds_of(self, steps: int) -> float:
        """Seconds that the slowest rank takes for `steps` steps. Raises RuntimeError with the reason where a rank failed."""
        seconds, waiting = [], list(self.connections)
        try:
            for connection in self.connections:
                connection.send(steps)
            while waiting:  # read whichever rank answers first: the others may be waiting for a rank that was killed
                answering = wait(waiting, PATIENCE_S)
                if not answering:
                    raise RuntimeError(f"no answer within {PATIENCE_S} s")
                for connection in [one for one in waiting if one in answering]:
                    answer = connection.recv()
                    if isinstance(answer, str):
                        raise RuntimeError(answer)
                    seconds.append(answer)
                    waiting.remove(connection)
        except (EOFError, OSError) as error:
            raise RuntimeError("a rank was killed") from error
        return max(seconds)


def measure_scaling(spec: Spec, repeats: Repeats) -> list[Scaling]:
    """Scaling over all GPUs, or over two processes of one thread where there is no GPU.

    `spec` is for one rank, and each rank has the batch of `spec`. Empty on a machine with one GPU or one core.
    """
    ranks = torch.cuda.device_count() or min(2, len(os.sched_getaffinity(0)))
    threads = spec.resources.train.threads if torch.cuda.is_available() else 1
    if ranks < 2:
        return []
    try:
        with started(spec, 1, threads) as one, started(spec, ranks, threads) as several:
            for each in (one, several):
                each.seconds_of(2)
            steps = max(1, round(repeats.slice_s / several.seconds_of(1)))
            found = [one.seconds_of(steps) / several.seconds_of(steps) for _ in range(repeats.rounds)]
    except RuntimeError as error:
        return [Scaling(ranks=ranks, threads=threads, problem=str(error))]
    return [Scaling(ranks=ranks, threads=threads, efficiency=quartiles_of(found))]


@contextmanager
def started(spec: Spec, ranks: int, threads: int) -> Iterator[RankProcesses]:
    """`ranks` processes of `threads` threads that train `spec` together; killed on leaving."""
    # Never fork: neither CUDA nor OpenMP's threads work in a forked process.
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = zip(*(context.Pipe() for _ in range(ranks)), strict=True)
        processes = [context.Process(target=train_as_rank, args=(theirs[rank], spec, rank, ranks, threads, folder), daemon=True)
                     for rank in range(ranks)]
        try:
            for process, end in zip(processes, theirs, strict=True):
                process.start()
                end.close()  # else reading would not end when the process is killed
            yield RankProcesses(ours, processes)
        finally:
            for process in processes:
                if process.pid:
                    process.kill()
                    process.join()


def train_as_rank(connection: Connection, spec: Spec, rank: int, ranks: int, threads: int, folder: str) -> None:
    """The work of one process: receive a number of steps, train for them, send the seconds or the text of an error."""
    for name in ("RANK", "SUBMITIT_EXECUTOR"):  # set where another launcher started the bench
        os.environ.pop(name, None)
    numbers = {"GLOBALID": rank, "NTASKS": ranks, "LOCALID": rank}
    os.environ |= {f"SUBMITIT_LOCAL_{key}": str(value) for key, value in numbers.items()}
    try:
        with process_group(Path(folder) / "meeting", threads) as group:
            whole_batch = spec.train.model_copy(update={"batch_size": spec.train.batch_size * ranks})
            spec = spec.model_copy(update={"train": whole_batch})
            state = new_state(spec, group)
            variant = Variant(work="train", precision=spec.train.precision, batch_size=spec.train.batch_size,
                              gradient_checkpointing=checkpointing(spec.train))
            step = training_work(state, variant, random_images(spec, spec.train.batch_size))
            while True:
                connection.send(seconds_of(step, connection.recv(), group.device))
    except EOFError:  # the bench has ended
        pass
    except Exception as error:
        connection.send(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
