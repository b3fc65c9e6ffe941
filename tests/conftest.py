"""Golden numbers and the networks that made them (see tests/golden/README.md); small runs, and ways to run their stages."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from diffusion.unet import UNet

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

GOLDEN = Path(__file__).parent / "golden"


class Golden:
    """Reading tests/golden, and the stand-in network of its `*_standin` and `losses_*` files."""

    @staticmethod
    def arrays(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz") as file:
            return dict(file)

    @staticmethod
    def tensors(name: str) -> dict[str, torch.Tensor]:
        return {key: torch.from_numpy(value) for key, value in Golden.arrays(name).items()}

    @staticmethod
    def facts(name: str):
        return json.loads((GOLDEN / f"{name}.json").read_text())

    @staticmethod
    def standin(learn_sigma: bool):
        """The formula instead of a network: tanh of the image and, where learned, a sine for the variance."""
        def network(x, t):
            image = torch.tanh(0.7 * x + 0.1)
            if not learn_sigma:
                return image
            return torch.cat([image, 0.8 * torch.sin(2 * x) * torch.cos(t / 300)[:, None, None, None]], dim=1)
        return network

    @staticmethod
    def formula_weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
        weights = {}
        for key, shape in shapes.items():
            r = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
            scale = len(shape) == 1 and key.endswith("weight")
            weights[key] = torch.from_numpy(1 + np.float32(0.1) * r if scale else np.float32(0.05) * r)
        return weights

    @staticmethod
    def unet(name: str) -> UNet:
        """The network of `unet_uncond32` or `unet_classcond32` with its formula weights, in evaluation mode."""
        facts = Golden.facts(name)
        network = UNet(
            image_size=facts["image_size"], in_channels=3, out_channels=6 if facts["learn_sigma"] else 3,
            num_channels=facts["num_channels"], num_res_blocks=facts["num_res_blocks"], channel_mult=[1, 2, 2, 2],
            attention_resolutions=[int(size) for size in facts["attention_resolutions"].split(",")],
            num_heads=facts["num_heads"], dropout=facts["dropout"],
            use_scale_shift_norm=facts["use_scale_shift_norm"], num_classes=1000 if facts["class_cond"] else None)
        network.load_state_dict(Golden.formula_weights(facts["state_dict"]))
        return network.eval()


@pytest.fixture
def golden() -> type[Golden]:
    return Golden


@pytest.fixture(autouse=True)
def one_thread():
    """The number of threads is part of a CPU's arithmetic; and tests run beside each other."""
    torch.set_num_threads(1)


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


@pytest.fixture
def make_run(tmp_path):
    """make_run("train.lr=1e-2", ..., folder="a") -> RunDir: the small spec with these changes, frozen under tmp_path."""
    from jobs.rundir import RunDir, freeze
    from jobs.spec_file import load

    def make(*overrides: str, folder: str = "runs") -> RunDir:
        spec = tmp_path / "small.yaml"
        spec.write_text(json.dumps(SMALL_SPEC))  # JSON is YAML
        return freeze(load(spec, overrides), tmp_path / folder)[0]
    return make


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file beside the others; messages then start with its bare name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "x.yaml") -> str:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8", newline="")
        return name
    return write


@pytest.fixture
def ranks():
    """ranks(run, "train", 2) -> exit status of the stage on two processes, as torchrun starts them.

    With wait=False the processes themselves, to be killed or signalled.
    """
    started: list[subprocess.Popen] = []

    def launch(run, stage: str, world_size: int = 1, wait: bool = True):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        processes = []
        for rank in range(world_size):
            place = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world_size,
                     "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            log = open(run.path / f"{stage}-{rank}.log", "a")
            environment = os.environ | {key: str(value) for key, value in place.items()}
            processes.append(subprocess.Popen([sys.executable, "-m", "jobs.stage", stage, str(run.path)],
                                              stdout=log, stderr=log, env=environment))
            log.close()
        started.extend(processes)
        return max(process.wait() for process in processes) if wait else processes
    yield launch
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def alone(tmp_path):
    """alone(run, "train") -> "done": the stage in this very process, a group of one. Raises what the stage raises."""
    from jobs.distributed import process_group
    from jobs.interruption import Interruption

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}

    def work(run, stage: str) -> str:
        from jobs.evaluate import evaluate
        from jobs.sample import sample
        from jobs.train import train
        with process_group(tmp_path / "meeting", threads=1) as group:
            return {"train": train, "sample": sample, "evaluate": evaluate}[stage](run, group, Interruption())
    yield work
    for number, handler in handlers.items():
        signal.signal(number, handler)


# Of a real SLURM, and quick: two nodes for training and sampling, one run unless a sweep is added.
SLURM_SPEC = {
    "name": "study", "data": SMALL_SPEC["data"], "model": SMALL_SPEC["model"], "diffusion": {"diffusion_steps": 40},
    "train": {"iterations": 40, "batch_size": 8, "lr": 1e-3, "ema_rate": [0.9], "log_interval": 10, "save_interval": 20},
    "sample": {"num_samples": 10, "batch_size": 3, "ema_rate": 0.9},
    "evaluate": {"nll_data": "digits-test", "nll_examples": 4, "batch_size": 2},
    "resources": {"train": {"nodes": 2, "tasks_per_node": 1, "time": "0:20:00"},
                  "sample": {"nodes": 2, "tasks_per_node": 1, "time": "0:20:00"}, "evaluate": {"time": "0:20:00"}},
}


def until(condition, seconds=200):
    """The first true value of condition()."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.2)
    return value


class Cluster:
    """A test bed, and a person in `folder` who talks to it."""

    def __init__(self, testbed, folder: Path):
        self.testbed, self.folder = testbed, folder

    def __call__(self, *command: str) -> str:
        """Output of one of SLURM's own commands."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    until = staticmethod(until)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"SLURM_CONF": str(self.testbed.conf)}

    def iddpm(self, *arguments, status: int = 0) -> str:
        """What the command prints."""
        done = subprocess.run([Path(sys.executable).parent / "iddpm", *map(str, arguments)], cwd=self.folder,
                              capture_output=True, text=True, timeout=280, env=self.environment)
        assert done.returncode == status and "Traceback" not in done.stderr, done.stdout + done.stderr
        return done.stdout + done.stderr

    def status(self, study: str = "runs/study") -> list[dict]:
        shown = self.iddpm("status", study, "--json")
        return json.loads(shown[shown.index("["):shown.rindex("]") + 1])  # notes go to the other stream

    def spec(self, name: str, **sections) -> None:
        """Write SLURM_SPEC with some sections replaced to the file `name`."""
        (self.folder / name).write_text(json.dumps(SLURM_SPEC | sections))

    @staticmethod
    def samples(run: Path) -> bytes:
        """All samples of a run that is done."""
        with h5py.File(run / "samples" / "samples.h5") as file:
            assert file["images"].shape == (10, 8, 8, 1)
            return file["images"][:].tobytes()

    def queue(self) -> list[str]:
        return self("squeue", "-h", "-r", "-o", "%i %T %r %j").splitlines()

    def release_requeued(self) -> None:
        """SLURM lets a requeued job wait for two minutes; nobody here has them."""
        for line in self.queue():
            if "BeginTime" in line:
                self("scontrol", "update", f"JobId={line.split()[0]}", "StartTime=now")

    def until_empty(self) -> None:
        def drained() -> bool:
            self.release_requeued()
            return not self.queue()
        until(drained)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """undisturbed(settings, run="run", ranks=2, **sections) -> samples of such a run on this machine, without SLURM and trouble.

    `sections` of SLURM_SPEC are replaced; `run` is the one of a sweep.
    """
    folders: dict[str, Path] = {}

    def samples_of(settings: list[str], run: str = "run", ranks: int = 2, **sections) -> bytes:
        what = json.dumps([settings, ranks, sections])
        if what not in folders:
            folder = folders[what] = tmp_path_factory.mktemp("undisturbed")
            (folder / "spec.yaml").write_text(json.dumps(SLURM_SPEC | sections))
            here = [f"resources.{stage}.{field}" for stage in ("train", "sample") for field in ("nodes=1", f"tasks_per_node={ranks}")]
            iddpm = Path(sys.executable).parent / "iddpm"
            subprocess.run([iddpm, "run", "spec.yaml", *settings, *here], cwd=folder, check=True, timeout=280)
        return Cluster.samples(folders[what] / "runs" / "study" / run)
    return samples_of


@pytest.fixture
def person():
    """person(testbed, folder): somebody who talks to that test bed from that folder."""
    return Cluster


@pytest.fixture(scope="session")
def testbed_of_three(tmp_path_factory):
    from slurm import testbed
    home = tmp_path_factory.mktemp("cluster")
    yield testbed.up(home, nodes=3, cpus=4, gpus=2)
    testbed.down(home)


@pytest.fixture
def cluster(testbed_of_three, tmp_path):
    """A real SLURM with three nodes, and in tmp_path spec.yaml and sweep.yaml. The queue is empty before and after."""
    found = Cluster(testbed_of_three, tmp_path)
    found.spec("spec.yaml")
    found.spec("sweep.yaml", sweep={"grid": {"diffusion.noise_schedule": ["linear", "cosine"]}})
    yield found
    left = found.queue()
    found("scancel", "--user", "root")
    until(lambda: not found.queue())
    found("scontrol", "update", "PartitionName=main", "State=UP")
    assert not left, f"left in the queue: {left}"
