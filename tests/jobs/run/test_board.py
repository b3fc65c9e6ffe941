"""TensorBoard on a disk that refuses: a message at the start, a note later, no thread that dies and no stage that hangs."""

import errno
import os
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

from jobs.errors import UserError
from jobs.report.board import read_board
from jobs.run.board import Board

LIMITED = """
import resource, sys
from pathlib import Path
from jobs.run.board import Board
board = Board(Path(sys.argv[1]), 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for step in range(1, 2000):
    board.scalars({"loss": 1.0, "lr": 2.0}, step)
board.flush()
board.flush()
board.close()
print("trained")
"""


def refuse(monkeypatch, number):
    def full(*_, **__):
        raise OSError(number, os.strerror(number))
    for name in ("write", "append"):
        monkeypatch.setattr(LocalFileSystem, name, full)


@pytest.mark.parametrize(("number", "words"), ((errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space left"),
                                              (errno.EROFS, "not writable"), (errno.EIO, "Input/output error")))
def test_a_disk_that_refuses_later_ends_the_log_and_not_the_work(tmp_path, monkeypatch, capsys, number, words):
    board = Board(tmp_path / "tensorboard", 0)
    board.scalars({"loss": 3.0}, 1)
    board.flush()
    refuse(monkeypatch, number)
    for step in range(2, 100):  # more than TensorBoard's queue holds
        board.scalars({"loss": 2.0}, step)
    board.flush()
    board.scalars({"loss": 1.0}, 100)
    board.flush()
    board.close()
    said = capsys.readouterr().out
    assert said.count("curves of this run end here") == 1 and words in said and str(tmp_path / "tensorboard") in said
    monkeypatch.undo()
    points = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(point.step, point.value) for point in points] == [(1, 3.0)]


@pytest.mark.parametrize(("number", "words"), ((errno.ENOSPC, "no space left"), (errno.EROFS, "not writable")))
def test_a_disk_that_refuses_at_once_is_one_message(tmp_path, monkeypatch, number, words):
    refuse(monkeypatch, number)
    with pytest.raises(UserError, match=f"tensorboard: {words}"):
        Board(tmp_path / "tensorboard", 0)


def test_a_clock_that_was_set_back_loses_no_points_and_keeps_no_void_ones(tmp_path):
    first = Board(tmp_path, 0)
    for step in (10, 20, 30, 40):
        first.scalars({"loss": float(step)}, step)
    first.close()
    [file] = tmp_path.iterdir()
    an_hour_ahead = int(file.name.split(".")[3]) + 3600
    file.rename(tmp_path / f"events.out.tfevents.{an_hour_ahead}.host.1.0")
    second = Board(tmp_path, 20)  # the clock is right again
    for step in (30, 50):
        second.scalars({"loss": -float(step)}, step)
    second.close()
    points = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(point.step, point.value) for point in points] == [(10, 10), (20, 20), (30, -30), (50, -50)]
    assert read_board(tmp_path).scalars["loss"] == {10: 10, 20: 20, 30: -30, 50: -50}


def test_a_file_in_place_of_the_folder_is_one_message(tmp_path):
    (tmp_path / "tensorboard").touch()
    with pytest.raises(UserError, match="tensorboard: a file stands where a folder is needed"):
        Board(tmp_path / "tensorboard", 0)


@pytest.mark.slow
def test_a_real_limit_of_the_disk(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    note, last = done.stdout.splitlines()
    assert "no space left" in note and last == "trained"
