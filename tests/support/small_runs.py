"""Small runs, and ways to run their stages."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

# A small spec for tests of the stages: digits, a network of some 20,000 parameters, short chains.
SMALL_SPEC = {
    "name": "small",
    "data": {"path": "digits", "image_size": 8, "channels": 1, "class_cond": True, "num_classes": 10},
    "model": {"num_channels": 8, "num_res_blocks": 1, "channel_mult": [1, 2], "attention_resolutions": [4], "num_heads": 2},
    "diffusion": {"diffusion_steps": 40},
    "train": {"iterations": 12, "batch_size": 12, "lr": 1e-3, "ema_rate": [0.9], "log_interval": 4, "save_interval": 4},
    "sample": {"num_samples": 10, "batch_size": 4, "ema_rate": 0.9},
    "evaluate": {"nll_data": "digits-test", "nll_examples": 6, "batch_size": 4},
    "resources": {stage: {"tasks_per_node": 1, "cpus_per_task": 1} for stage in ("train", "sample", "evaluate")},
}


def spec_of(plain: dict, overrides: Sequence[str] = ()):
    """Return the resolved spec of plain values with these changes."""
    from jobs.spec.reading.file import load

    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(plain, file)  # JSON is YAML
        file.flush()
        return load(file.name, overrides).runs[0].spec


def making(plain: dict, place: Path) -> Callable:
    """Return a function: ("train.lr=1e-2", ..., folder="a") -> RunDir, the run of plain values with these changes, frozen."""
    from jobs.run.directory import RunDir
    from jobs.run.study.freezing import freeze
    from jobs.spec.reading.file import load

    def make(*overrides: str, folder: str = "runs") -> RunDir:
        spec = place / f"{plain['name']}.yaml"
        spec.write_text(json.dumps(plain))
        return freeze(load(spec, overrides), place / folder)[0]
    return make


@pytest.fixture
def make_run(tmp_path):
    """make_run("train.lr=1e-2", ..., folder="a") -> RunDir: the small spec with these changes, frozen under tmp_path."""
    return making(SMALL_SPEC, tmp_path)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file beside the others; messages then start with its bare name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "x.yaml") -> str:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8", newline="")
        return name
    return write


def logs(run) -> str:
    """What the processes of `ranks` said."""
    return "\n".join(file.read_text() for file in run.path.glob("*.log"))


def kill_in_training(run, ranks) -> None:
    """Train on two processes, and end both by kill -9 as soon as there is a checkpoint."""
    processes = ranks(run, "train", 2, wait=False)
    deadline = time.monotonic() + 240
    while not run.checkpoint_folders():
        assert time.monotonic() < deadline and processes[0].poll() in (None, 0), logs(run)
        time.sleep(0.002)
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()


def places(world_size: int) -> list[dict[str, str]]:
    """Return the environment of each process of a group, as torchrun makes it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [os.environ | {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank),
                          "LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            for rank in range(world_size)]


@contextmanager
def launching(*program: str, **environment: str) -> Iterator[Callable]:
    """Yield the function of `ranks` that starts Python with `program`; end what is left of the processes."""
    started: list[subprocess.Popen] = []

    def launch(run, stage: str, world_size: int = 1, wait: bool = True):
        processes = []
        for rank, place in enumerate(places(world_size)):
            with open(run.path / f"{stage}-{rank}.log", "a") as log:
                processes.append(subprocess.Popen([sys.executable, *program, stage, str(run.path)], stdout=log, stderr=log,
                                                  env=place | environment))
        started.extend(processes)
        return max(process.wait() for process in processes) if wait else processes
    try:
        yield launch
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture
def ranks():
    """ranks(run, "train", 2) -> exit status of the stage on two processes, as torchrun starts them.

    With wait=False the processes themselves, to be killed or signalled.
    """
    with launching("-m", "jobs.stage") as launch:
        yield launch


@contextmanager
def own_handlers() -> Iterator[None]:
    """After this block, put back the handlers of the signals that a stage handles."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def work_alone(run, place: Path, *stages: str) -> list[str]:
    """Do the stages in this very process, a group of one that meets in `place`; return their results. Raises what they raise."""
    from jobs.evaluation.evaluate import evaluate
    from jobs.parallel.group import process_group
    from jobs.parallel.interruption import Interruption
    from jobs.sampling.loop import sample
    from jobs.training.loop import train

    functions = {"train": train, "sample": sample, "evaluate": evaluate}
    with process_group(place / "meeting", threads=1) as group:
        return [functions[stage](run, group, Interruption()) for stage in stages]


def finished(plain: dict, place: Path, *stages: str):
    """Return the run of plain values, after it did these stages in this process."""
    run = making(plain, place)()
    with own_handlers():
        assert work_alone(run, place, *stages) == ["done"] * len(stages)
    return run


@pytest.fixture
def alone(tmp_path):
    """alone(run, "train") -> "done": one stage by `work_alone`."""
    with own_handlers():
        yield lambda run, stage: work_alone(run, tmp_path, stage)[0]
