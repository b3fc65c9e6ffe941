"""A real SLURM on this machine and a person who uses it; what the samples are without one."""

import json
import os
import subprocess
import time
from pathlib import Path
from unittest import mock

import h5py
import pytest
from command_line import iddpm, iddpm_here
from small_runs import SMALL_SPEC

# One process for each stage, where it does not matter how many they are.
ONE = {stage: {"nodes": 1, "tasks_per_node": 1, "time": "0:20:00"} for stage in ("train", "sample", "evaluate")}
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
        if arguments[0] not in ("submit", "status", "cancel", "requeue"):
            return iddpm(*arguments, cwd=self.folder, status=status, env=self.environment)
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            with mock.patch.dict(os.environ, SLURM_CONF=str(self.testbed.conf)):
                return iddpm_here(*arguments, status=status)
        finally:
            os.chdir(before)

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
        waiting = [line for line in self.queue() if "BeginTime" in line]
        if waiting:  # nodes have revoked the credentials of this job up to the end of this second
            time.sleep(2)
        for line in waiting:
            self("scontrol", "update", f"JobId={line.split()[0]}", "StartTime=now")

    def until_empty(self) -> None:
        def drained() -> bool:
            self.release_requeued()
            return not self.queue()
        until(drained)

    def until_sampled(self) -> None:
        """Wait for the samples, and do without evaluation and report, which are those of any run."""
        later = [line.split()[0] for line in self.queue() if "-evaluate-" in line or "-report-" in line]
        if later:  # on a quick machine they may have ended already; --quiet: one may end at this moment
            self("scancel", "--quiet", *later)
        self.until_empty()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """undisturbed(settings, ranks=2) -> samples of such a run, trained by so many ranks here, without SLURM or trouble."""
    from jobs.run.study.freezing import freeze
    from jobs.spec.reading.file import load

    folders: dict[str, Path] = {}

    def samples_of(settings: list[str], ranks: int = 2) -> bytes:
        settings = [setting for setting in settings if not setting.startswith("evaluate.")]
        what = json.dumps([settings, ranks])
        if what not in folders:
            folder = folders[what] = tmp_path_factory.mktemp("undisturbed")
            (folder / "spec.yaml").write_text(json.dumps(SLURM_SPEC))
            here = [f"resources.train.tasks_per_node={ranks}", "resources.sample.tasks_per_node=1",
                    *(f"resources.{stage}.nodes=1" for stage in ("train", "sample"))]
            freeze(load(folder / "spec.yaml", [*settings, *here]), folder / "runs")
            for stage in ("train", "sample"):  # not `iddpm run`, which would write a report after each
                iddpm(stage, "runs/study/run", cwd=folder)
        return Cluster.samples(folders[what] / "runs" / "study" / "run")
    return samples_of


@pytest.fixture
def person():
    """person(testbed, folder): somebody who talks to that test bed from that folder."""
    return Cluster


@pytest.fixture(scope="session")
def testbed_of_three(tmp_path_factory):
    from slurm.testbed import daemons
    home = tmp_path_factory.mktemp("cluster")
    yield daemons.up(home, nodes=3, cpus=4, gpus=2)
    daemons.down(home)


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
