"""A person who submits to the fake SLURM of fake_slurm.py, in the test's own process and without root."""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from command_line import iddpm_here
from real_slurm import ONE, SLURM_SPEC, until

SUPPORT = Path(__file__).parent
COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "srun")


class FakeCluster:
    """The fake SLURM in `home`, and a person in `folder`. Jobs run stand_in_job.py, where SLURM's programs are not, unless
    another profile is named."""

    def __init__(self, home: Path, folder: Path):
        self.home, self.folder = home, folder
        (home / "bin").mkdir(parents=True)
        for name in (*COMMANDS, "stepd"):
            (home / "bin" / name).symlink_to(SUPPORT / "fake_slurm.py")
        (home / "bin" / "python3").symlink_to(sys.executable)  # for the script's first line
        self.configure()
        self.stand_in = {"python": f"env PATH=/nowhere {sys.executable} {SUPPORT / 'stand_in_job.py'}",
                         "environment": {"STAND_IN_CODE": str(home / "code.txt")}}
        self.profile("stand-in", **self.stand_in)

    def configure(self, **config) -> None:
        """What `scontrol show config` says; the queue becomes empty."""
        config = {"MaxArraySize": 1001, "MaxJobCount": 10000} | config
        (self.home / "queue.json").write_text(json.dumps({"config": config, "down": False, "jobs": {}}))

    def __call__(self, *command: str) -> str:
        """Output of one of SLURM's own commands."""
        from slurm.launch.squeue import command as slurm_command
        return slurm_command(*command)

    iddpm = staticmethod(iddpm_here)

    def submit(self, *arguments, cluster: str = "stand-in", status: int = 0) -> str:
        return self.iddpm("submit", *arguments, "--cluster", cluster, status=status)

    def status(self, study: str = "runs/study") -> list[dict]:
        shown = self.iddpm("status", study, "--json")
        return json.loads(shown[shown.index("["):shown.rindex("]") + 1])  # beside notes

    def states(self, study: str = "runs/study") -> dict[str, str]:
        return {run["run"]: run["state"] for run in self.status(study)}

    def spec(self, name: str, **sections) -> None:
        """Write a spec of one process a stage to the file `name`."""
        (self.folder / name).write_text(json.dumps(SLURM_SPEC | {"resources": ONE} | sections))

    def profile(self, name: str, **settings) -> None:
        """Write a cluster profile."""
        file = self.folder / "configs" / "clusters" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))

    def act(self, run: str, stage: str, words: str) -> Path:
        """Direct the stand-in job; deleting the returned file ends a "wait"."""
        file = self.folder / "acts" / f"{run}.{stage}"
        file.parent.mkdir(exist_ok=True)
        file.write_text(words)
        return file

    def events(self) -> list[str]:
        """What stand-in jobs noted, in order."""
        file = self.folder / "events.txt"
        return file.read_text().splitlines() if file.exists() else []

    until = staticmethod(until)

    def until_event(self, event: str) -> None:
        until(lambda: event in self.events(), 60)

    def jobs(self) -> dict[str, dict]:
        """All jobs that there ever were, by id."""
        return json.loads((self.home / "queue.json").read_text())["jobs"]

    def queue(self) -> dict[str, str]:
        """Of the jobs that wait or run: id -> state, or why it waits."""
        return {id: job["state"] if job["state"] == "RUNNING" else job["reason"] for id, job in self.jobs().items()
                if job["state"] in ("PENDING", "RUNNING")}

    def until_empty(self) -> None:
        until(lambda: not self.queue(), 60)

    def stop(self) -> None:
        """End everything at once."""
        def kill(jobs) -> None:
            for job in jobs:
                if job["group"]:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(job["group"], signal.SIGKILL)

        def ended() -> bool:  # again and again: a job may have started meanwhile
            waiting = self.queue()
            for id in waiting:
                self("scancel", id)
            kill(job for id, job in self.jobs().items() if id in waiting)
            return not self.queue()
        kill(self.jobs().values())
        until(ended, 60)


@pytest.fixture
def fake_slurm(tmp_path, tmp_path_factory, monkeypatch):
    """A fake cluster; the current folder is tmp_path with spec.yaml (one run) and sweep.yaml (train.seed 1 and 2)."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path_factory.mktemp("fake-slurm")
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    cluster = FakeCluster(home, tmp_path)
    cluster.spec("spec.yaml")
    cluster.spec("sweep.yaml", sweep={"grid": {"train.seed": [1, 2]}})
    yield cluster
    cluster.stop()
