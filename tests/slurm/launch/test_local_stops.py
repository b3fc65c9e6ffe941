"""`iddpm run` when somebody stops it, or when its terminal, its pipe or its clock goes away."""

import fcntl
import json
import os
import pty
import signal
import subprocess
import termios
import time
from pathlib import Path

import pytest
from command_line import IDDPM
from paths import ROOT

from jobs.run.directory import RunDir
from slurm.launch.local import _progress
from slurm.launch.local_ranks import children, descendants

SPEC = f"""extends: {ROOT}/configs/quickstart.yaml
name: study
model: {{num_channels: 8, channel_mult: [1], attention_resolutions: []}}
train: {{iterations: 100000, save_interval: 100000, log_interval: 10}}
resources: {{train: {{tasks_per_node: 2}}}}
"""
SHORT = ["train.iterations=30", "train.save_interval=30"]


class Command:
    """`iddpm run spec.yaml --only train ...` in a session of its own, as in a terminal."""

    def __init__(self, folder: Path, *arguments: str, spec: str = "spec.yaml", shell: str = "", **options):
        (folder / "spec.yaml").write_text(SPEC)
        self.folder = folder
        command = [str(IDDPM), "run", spec, "--only", "train", *arguments]
        command = ["/bin/sh", "-c", f'{shell} exec "$@"', "sh", *command] if shell else command
        self.process = subprocess.Popen(command, cwd=folder, start_new_session=True, **options)

    def until_training(self, run: str = "run") -> Path:
        path = self.folder / "runs" / "study" / run
        deadline = time.monotonic() + 100
        while not ((progress := read(path / "progress.json")).get("done") or 0) > 0:
            assert self.process.poll() is None and time.monotonic() < deadline, progress
            time.sleep(0.05)
        return path

    def status(self) -> int:
        return self.process.wait(timeout=100)


def read(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except OSError:
        return {}


def saved(run: Path) -> bool:
    """Whether training was interrupted and has saved its last step."""
    progress = read(run / "progress.json")
    return progress["state"] == "interrupted" and (run / "checkpoints" / f"step-{progress['done']:08}" / "manifest.json").exists()


def take_terminal() -> None:
    """Make the file of the standard input the terminal of this session, as a shell in a terminal has it."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.slow
def test_a_terminal_that_is_closed_stops_and_saves(tmp_path):
    terminal, end = pty.openpty()
    command = Command(tmp_path, stdin=end, stdout=end, stderr=end, preexec_fn=take_terminal)
    os.close(end)
    run = command.until_training()
    os.close(terminal)  # SIGHUP to the foreground, and errors for everyone who prints
    rank = read(run / "progress.json")["pid"]
    for _ in range(3):  # the shell sends SIGHUP again, to all processes
        time.sleep(0.2)
        for pid in [rank, command.process.pid, *descendants(command.process.pid)]:
            try:
                os.kill(pid, signal.SIGHUP)
            except ProcessLookupError:
                continue
    assert command.status() == 130 and saved(run)


@pytest.mark.slow
@pytest.mark.parametrize("number, shell", [(signal.SIGHUP, "trap '' HUP;"), (signal.SIGINT, "trap '' INT;")])
def test_a_signal_that_is_ignored_at_first_stays_ignored(tmp_path, number, shell):
    command = Command(tmp_path, "train.iterations=400", "train.save_interval=400", shell=shell, stdout=subprocess.DEVNULL,
                      stderr=subprocess.DEVNULL)
    run = command.until_training()
    os.killpg(command.process.pid, number)
    assert command.status() == 0 and (run / "checkpoints" / "step-00000400" / "manifest.json").exists()


@pytest.mark.slow
def test_ctrl_c_twice_kills_and_starts_nothing_further(tmp_path):
    (tmp_path / "sweep.yaml").write_text("extends: spec.yaml\nsweep: {grid: {train.seed: [1, 2]}}\n")
    command = Command(tmp_path, spec="sweep.yaml", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    command.until_training("seed=1")
    for rank in [rank for controller in children(command.process.pid) for rank in children(controller)]:
        os.kill(rank, signal.SIGSTOP)  # so that the first Ctrl-C has no time to save
    os.killpg(command.process.pid, signal.SIGINT)
    time.sleep(1)
    os.killpg(command.process.pid, signal.SIGINT)
    text = command.process.communicate(timeout=100)[0]
    assert command.process.returncode == 130 and "seed=1: train killed; run again to resume" in text, text
    assert not (tmp_path / "runs" / "study" / "seed=2" / "progress.json").exists()


@pytest.mark.slow
def test_a_reader_that_has_read_enough_stops_nothing(tmp_path):
    command = Command(tmp_path, *SHORT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert command.process.stdout
    command.process.stdout.readline()
    command.process.stdout.close()
    assert command.status() == 0
    assert (tmp_path / "runs" / "study" / "run" / "checkpoints" / "step-00000030" / "manifest.json").exists()


@pytest.mark.slow
def test_modules_of_the_user_beside_the_spec_are_not_ours(tmp_path):
    for name in ("jobs", "queue", "diffusion", "slurm", "submitit", "random", "token", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    command = Command(tmp_path, *SHORT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    text = command.process.communicate(timeout=200)[0]
    assert command.process.returncode == 0, text


def test_an_attempt_is_known_by_its_name_and_not_by_the_clock(tmp_path):
    run = RunDir(tmp_path)
    for heartbeat in (0.0, time.time() + 3600):
        progress = {"stage": "train", "state": "running", "heartbeat": heartbeat, "attempt": "mine"}
        run.progress.write_text(json.dumps(progress))
        assert _progress(run, "mine") and _progress(run, "other") is None
    run.progress.write_text("[]")
    assert _progress(run, "mine") is None
