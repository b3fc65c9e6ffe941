"""Time a training step against a plain one: python tests/benchmarks/train.py [PART ...] [--config a|b]

    step        plain_training.py (x * sigmoid(x), attention by two batched products and a softmax, AdamW and average tensor by
                tensor, a read-back per tensor for the gradient's norm, default DDP and malloc) against `train_step` in fp32
                and in bf16
    compiled    plain_training.py against `train_step` with train.compile: default (minutes)
    dropout     `train_step` with masks keyed by example (diffusion/networks/dropout.py), with torch's dropout, and without any
    averages    `train_step` with one average of constant rate, and with two power-function averages besides (train.ema_sigma_rel)
    malloc      `train_step` with freed memory kept (jobs.parallel.allocator) and without
    layout      `train_step` with images, weights and activations in channels_last, and in the default layout
    memory      the largest sum of storages alive in a step, without parameters, and the time, by gradient_checkpointing
    ranks       images per second of two processes of one thread each, against one alone and against two apart; and with DDP's
                static_graph, which `train_step` does not use

Config a: 32x32, 96 channels, two blocks a level, batch 8, 22.3 M parameters. b: 16x16, 32 channels, batch 32, 1.2 M.
Each way to do a step has a process of its own. Ratios are of medians over interleaved rounds, with quartiles.
THREADS=2 in the environment: other than one thread.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from plain_training import made_plain, plain_step
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from jobs.cost.bench.timing import Repeats, rates_in_turns
from jobs.data.dataset import ImageData
from jobs.kinds.diffusion.sections import DiffusionSpec, DiffusionSpecAsWritten, resolve
from jobs.parallel import group as distributed
from jobs.parallel.group import Group, process_group
from jobs.spec.kinds import MODEL
from jobs.training.batches import Batches
from jobs.training.state import new_state
from jobs.training.step import TrainingState, train_step

FOREVER = 10 ** 9
THREADS = int(os.environ.get("THREADS", "1"))
CONFIGS = {
    "a": ({"image_size": 32}, {"num_channels": 96, "num_res_blocks": 2, "attention_resolutions": [16, 8]}, 8),
    "b": ({"image_size": 16}, {"num_channels": 32, "num_res_blocks": 1, "channel_mult": [1, 2, 2],
                               "attention_resolutions": [8, 4]}, 32),
}


def spec_of(config: str, dropout: float = 0.0, **train) -> DiffusionSpec:
    data, model, batch_size = CONFIGS[config]
    return resolve(DiffusionSpecAsWritten.model_validate({
        "name": "benchmark", "data": {"path": "random", **data}, "model": {**model, "dropout": dropout},
        "train": {"iterations": FOREVER, "batch_size": batch_size, **train}}))


def work_of(state: TrainingState, step: Callable) -> Callable[[], object]:
    size, random = state.spec.data.image_size, np.random.default_rng(0)
    data = ImageData(random.integers(0, 256, (512, size, size, 3), dtype=np.uint8), None, [], "random")
    batches, numbers = Batches(state.spec, data, state.group)(0, FOREVER), itertools.count()
    return lambda: step(state, next(batches), next(numbers))


def table(title: str, rates: dict[str, list[float]]) -> None:
    """Print the milliseconds of a step of each way, and how much faster than the first way it is, round by round."""
    first = next(iter(rates.values()))
    for name, found in rates.items():
        low, median, high = np.percentile(1e3 / np.array(found), [25, 50, 75])
        lower, ratio, upper = np.percentile(np.array(found) / np.array(first), [25, 50, 75])
        print(f"{title}: {name:19s} {median:8.1f} ms [{low:.1f}, {high:.1f}]   "
              f"{ratio:5.2f}x as fast [{lower:.2f}, {upper:.2f}]", flush=True)


# Ways to do a step

@dataclass(frozen=True)
class Way:
    """One way to do a step, in a process of its own."""

    train: dict = field(default_factory=dict)
    plain: bool = False
    dropout: float = 0.0
    torch_dropout: bool = False
    default_malloc: bool = False
    channels_last: bool = False


PLAIN = Way(plain=True, default_malloc=True)
WAYS = {
    "step": {"plain": PLAIN, "fp32": Way(), "bf16": Way({"precision": "bf16"})},
    "compiled": {"plain": PLAIN, "fp32 compiled": Way({"compile": "default"}),
                 "bf16 compiled": Way({"precision": "bf16", "compile": "default"})},
    "dropout": {f"{precision}, {name}": Way({"precision": precision}, **way) for precision in ("fp32", "bf16") for name, way in {
        "torch's": {"dropout": 0.3, "torch_dropout": True}, "keyed": {"dropout": 0.3}, "none": {}}.items()},
    "averages": {f"{precision}, {name}": Way({"precision": precision, "ema_sigma_rel": lengths}) for precision in ("fp32", "bf16")
                 for name, lengths in {"one": [], "three": [0.05, 0.1]}.items()},
    "malloc": {f"{precision}, {'default' if default else 'kept'}": Way({"precision": precision}, default_malloc=default)
               for precision in ("fp32", "bf16") for default in (True, False)},
    "layout": {f"{precision}{', channels last' * last}": Way({"precision": precision}, channels_last=last)
               for precision in ("fp32", "bf16") for last in (False, True)}}


def served(config: str, way: Way, connection: Connection) -> None:
    """Do a step for each message. Send the first answer after three steps."""
    if way.default_malloc:
        distributed.keep_freed_memory = lambda: None
    with tempfile.TemporaryDirectory() as folder, process_group(Path(folder) / "meeting", THREADS) as group:
        state = new_state(spec_of(config, way.dropout, **way.train), group)
        if way.torch_dropout:  # a network that is given no numbers
            state.kind.spec = spec_of(config, **way.train)
        if way.channels_last:
            state.parts[MODEL].network.to(memory_format=torch.channels_last).register_forward_pre_hook(
                lambda _, given: (given[0].contiguous(memory_format=torch.channels_last), *given[1:]))
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        work = work_of(made_plain(state), plain_step) if way.plain else work_of(state, train_step)
        for _ in range(3):
            work()
        connection.send(None)
        while connection.recv():
            work()
            connection.send(None)


def steps(config: str, ways: dict[str, Way]) -> None:
    context, connections = get_context("spawn"), {}
    for name, way in ways.items():
        began = time.perf_counter()
        connections[name], theirs = context.Pipe()
        context.Process(target=served, args=(config, way, theirs), daemon=True).start()
        connections[name].recv()
        print(f"{config}: {name} is warm after {time.perf_counter() - began:.0f} s", flush=True)

    def step_of(connection: Connection) -> Callable[[], object]:
        return lambda: (connection.send(True), connection.recv())
    works = {name: step_of(connection) for name, connection in connections.items()}
    table(f"{config}, batch {CONFIGS[config][2]}", rates_in_turns(works, Repeats(rounds=11, slice_s=1.0), torch.device("cpu")))
    for connection in connections.values():
        connection.send(False)


# Memory

class Alive(TorchDispatchMode):
    """Count the most bytes that were alive at once in storages made while the mode is on."""

    def __init__(self):
        super().__init__()
        self.storages: dict[StorageWeakRef, int] = {}
        self.most = 0

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        out = function(*arguments, **(kwargs or {}))
        self.storages = {alive: size for alive, size in self.storages.items() if not alive.expired()}
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, Tensor) and not function.is_view and not function._schema.is_mutable:
                storage = tensor.untyped_storage()
                self.storages[StorageWeakRef(storage)] = storage.nbytes()
        self.most = max(self.most, sum(self.storages.values()))
        return out


def memory(config: str, group: Group) -> None:
    sizes = sorted({spec_of(config).data.image_size >> level for level in range(2)})
    works, peaks = {}, {}
    for name, checkpointing in {"none": False, "all": True, f"{sizes[-1:]}": sizes[-1:], f"{sizes}": sizes}.items():
        state = new_state(spec_of(config, gradient_checkpointing=checkpointing), group)
        works[name] = work_of(state, train_step)
        works[name]()
        part = state.parts[MODEL]
        network, x = part.network, torch.randn(CONFIGS[config][2], 3, sizes[-1], sizes[-1])
        for parameter in part.parameters:
            parameter.grad = None
        with Alive() as alive:
            out = network(x, torch.zeros(len(x)))
            kept = sum(size for ref, size in alive.storages.items() if not ref.expired())
            out.square().mean().backward()
        peaks[name] = alive.most
        print(f"{config}: gradient_checkpointing {name:9s} after forward {kept / 2 ** 20:6.1f} MiB, peak "
              f"{alive.most / 2 ** 20:6.1f} MiB, {alive.most / peaks['none']:.2f} of none", flush=True)
        for parameter in part.parameters:
            parameter.grad = None
        part.ddp = network  # its gradients are no longer DDP's views
    table(f"{config}, checkpointing", rates_in_turns(works, Repeats(rounds=9, slice_s=0.5), group.device))


# Ranks

def one_rank(config: str, folder: Path, turn: str, world_size: int, static_graph: bool) -> None:
    """Do a few steps as one rank of `world_size`, in a process that `ranks` started; rank 0 prints images per second."""
    with process_group(folder / f"meeting-{turn}-{world_size}", 1) as group:
        state = new_state(spec_of(config, batch_size=CONFIGS[config][2] * world_size), group)
        part = state.parts[MODEL]
        if static_graph:
            part.ddp = nn.parallel.DistributedDataParallel(part.network, gradient_as_bucket_view=True, static_graph=True)
        work = work_of(state, train_step)
        for _ in range(3):
            work()
        dist.barrier()
        began, count = time.perf_counter(), 8
        for _ in range(count):
            work()
        dist.barrier()
        if group.is_main:
            print(count * CONFIGS[config][2] * world_size / (time.perf_counter() - began))


def ranks(config: str, rounds: int = 5) -> None:
    """Time one process of one thread, two that train together, and two that train apart, in turns.

    Two that train apart are the ideal: they share memory and clock, but wait for nothing.
    """
    found: dict[str, list[float]] = {"one": [], "two": [], "static graph": [], "two apart": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn, name in itertools.product(range(rounds), found):
            started = []
            for rank in range(1 if name == "one" else 2):
                world = (rank, 2) if name in ("two", "static graph") else (0, 1)
                place = {"GLOBALID": world[0], "NTASKS": world[1], "LOCALID": rank}
                environment = os.environ | {f"SUBMITIT_LOCAL_{key}": str(value) for key, value in place.items()}
                meeting = f"{turn}-{name}{rank if name == 'two apart' else ''}"
                arguments = [config, folder, meeting, str(world[1]), name]
                started.append(subprocess.Popen([sys.executable, __file__, "--rank", *arguments], env=environment,
                                                stdout=subprocess.PIPE, text=True))
            said = [process.communicate()[0] for process in started]
            assert not any(process.returncode for process in started)
            found[name].append(sum(float(line) for line in "".join(said).split()))
    for name, rates in found.items():
        low, median, high = np.percentile(rates, [25, 50, 75])
        print(f"{config}: {name:12s} {median:7.1f} images/s [{low:.1f}, {high:.1f}]")
    others = {name: np.array(found[name]) for name in ("two apart", "static graph")} | {"twice one": 2 * np.array(found["one"])}
    for name, ideal in others.items():
        low, median, high = np.percentile(np.array(found["two"]) / ideal, [25, 50, 75])
        print(f"{config}: two ranks have {median:.2f} [{low:.2f}, {high:.2f}] of {name}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        one_rank(sys.argv[2], Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]), sys.argv[6] == "static graph")
        sys.exit()
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=["step", "memory", "ranks"])
    parser.add_argument("--config", default="a", choices=CONFIGS)
    options = parser.parse_args()
    if "ranks" in options.parts:
        ranks(options.config)
    for part in [part for part in WAYS if part in options.parts]:
        steps(options.config, WAYS[part])
    if "memory" in options.parts:
        with tempfile.TemporaryDirectory() as folder, process_group(Path(folder) / "meeting", THREADS) as group:
            memory(options.config, group)
