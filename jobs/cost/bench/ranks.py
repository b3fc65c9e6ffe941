"""How training scales over the processes of this machine: several ranks against one, in turns."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from jobs.cost.bench.file import Scaling, Variant, summary
from jobs.cost.bench.timing import Effort
from jobs.spec.sections import Spec

PATIENCE_S = 600  # of one turn, the first with its start included


@dataclass(frozen=True)
class Ranks:
    """Processes that train together when told to."""

    connections: list[Connection]
    processes: list[BaseProcess]

    def seconds_of(self, steps: int) -> float:
        """That the slowest takes for `steps` steps. Raises RuntimeError with what a rank died of."""
        seconds, waiting = [], list(self.connections)
        try:
            for connection in self.connections:
                connection.send(steps)
            while waiting:  # whichever answers: the others may wait for one that died
                answering = wait(waiting, PATIENCE_S)
                if not answering:
                    raise RuntimeError(f"no answer within {PATIENCE_S} s")
                for connection in answering:
                    answer = connection.recv()
                    if isinstance(answer, str):
                        raise RuntimeError(answer)
                    seconds.append(answer)
                    waiting.remove(connection)
        except (EOFError, OSError) as error:
            raise RuntimeError("a rank was killed") from error
        return max(seconds)


def measure_scaling(spec: Spec, effort: Effort) -> list[Scaling]:
    """Of all GPUs there are, else of two processes of one thread; each rank has the batch of `spec`, which is for one.

    Empty where there is one GPU, or one core.
    """
    ranks = torch.cuda.device_count() or min(2, len(os.sched_getaffinity(0)))
    threads = spec.resources.train.threads if torch.cuda.is_available() else 1
    if ranks < 2:
        return []
    try:
        with started(spec, 1, threads) as one, started(spec, ranks, threads) as several:
            for each in (one, several):
                each.seconds_of(2)
            steps = max(1, round(effort.slice_s / several.seconds_of(1)))
            found = [one.seconds_of(steps) / several.seconds_of(steps) for _ in range(effort.rounds)]
    except RuntimeError as error:
        return [Scaling(ranks=ranks, threads=threads, problem=str(error))]
    return [Scaling(ranks=ranks, threads=threads, efficiency=summary(found))]


@contextmanager
def started(spec: Spec, ranks: int, threads: int) -> Iterator[Ranks]:
    # Never a fork: CUDA does not survive one, nor do OpenMP's threads.
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = zip(*(context.Pipe() for _ in range(ranks)))
        processes = [context.Process(target=work, args=(theirs[rank], spec, rank, ranks, threads, folder), daemon=True)
                     for rank in range(ranks)]
        try:
            for process, end in zip(processes, theirs):
                process.start()
                end.close()  # so that its death is heard
            yield Ranks(list(ours), processes)
        finally:
            for process in processes:
                if process.pid:
                    process.kill()
                    process.join()


def work(connection: Connection, spec: Spec, rank: int, ranks: int, threads: int, folder: str) -> None:
    """One rank: train for as many steps as it hears, and tell how long that took, or what went wrong."""
    from jobs.cost.bench.timing import seconds_of
    from jobs.cost.bench.work import random_images, training_work
    from jobs.parallel.group import process_group
    from jobs.training.state import new_state

    for name in ("RANK", "SUBMITIT_EXECUTOR"):  # another launcher's
        os.environ.pop(name, None)
    place = {"GLOBALID": rank, "NTASKS": ranks, "LOCALID": rank}
    os.environ |= {f"SUBMITIT_LOCAL_{key}": str(value) for key, value in place.items()}
    try:
        with process_group(Path(folder) / "meeting", threads) as group:
            everyone = spec.train.model_copy(update={"batch_size": spec.train.batch_size * ranks})
            spec = spec.model_copy(update={"train": everyone})
            state = new_state(spec, group)
            variant = Variant(work="train", precision=spec.train.precision, batch_size=spec.train.batch_size,
                              gradient_checkpointing=spec.train.gradient_checkpointing)
            step = training_work(state, variant, random_images(spec, spec.train.batch_size))
            while True:
                connection.send(seconds_of(step, connection.recv(), group.device))
    except EOFError:  # nobody asks any more
        pass
    except Exception as error:
        connection.send(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
