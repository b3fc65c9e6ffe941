"""progress.json: a sign of life from the beginning, whatever the stage does, and the truth about its speed."""

import os
import time

import pytest

from jobs.errors import UserError
from jobs.run import progress as module
from jobs.run.progress import Progress, announce, end
from jobs.storage.files import read_json


@pytest.fixture(autouse=True)
def quick_heart(monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.02)


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_heart_beats_while_the_stage_is_silent(tmp_path):
    file = tmp_path / "progress.json"
    progress = Progress(file, "train")
    progress.prepare("reading the data")
    wait_for(lambda: read_json(file)["doing"] == "reading the data")
    first = read_json(file)
    assert first["state"] == "running" and "done" not in first and first["rate"] is None
    wait_for(lambda: read_json(file)["heartbeat"] > first["heartbeat"])
    assert read_json(file)["advanced"] == first["advanced"]  # alive, but no further
    progress.close(None, "failed")
    assert read_json(file)["state"] == "failed"


def test_steps_clear_what_was_prepared_and_give_a_rate_without_the_first(tmp_path):
    file = tmp_path / "progress.json"
    progress = Progress(file, "train")
    progress.start(100, 40, doing="compiling")
    wait_for(lambda: read_json(file).get("done") == 40)
    assert read_json(file)["doing"] == "compiling"
    time.sleep(0.5)  # the first step, which compiles
    for step in range(41, 51):
        progress.update(step)
        time.sleep(0.01)
    wait_for(lambda: read_json(file)["done"] == 50)
    found = read_json(file)
    assert found["doing"] == "" and found["rate"] > 20 and found["left_s"] == pytest.approx(50 / found["rate"])
    progress.close(None, "interrupted")
    assert (read_json(file)["done"], read_json(file)["state"], read_json(file)["rate"]) == (50, "interrupted", None)


def test_where_later_steps_are_of_another_kind_no_time_left_is_claimed(tmp_path):
    file = tmp_path / "progress.json"
    progress = Progress(file, "evaluate")
    progress.start(100, certain=False)
    for step in range(1, 6):
        progress.update(step)
        time.sleep(0.01)
    wait_for(lambda: read_json(file).get("done") == 5 and read_json(file)["rate"])
    assert read_json(file)["left_s"] is None
    progress.start(100, 5, certain=True)
    for step in range(6, 11):
        progress.update(step)
        time.sleep(0.01)
    wait_for(lambda: read_json(file)["left_s"])
    progress.close(10, "interrupted")


def test_what_other_ranks_do_counts(tmp_path):
    file, shared = tmp_path / "progress.json", [0]
    progress = Progress(file, "sample")
    progress.start(100)
    progress.follow(lambda: shared[0])
    wait_for(lambda: read_json(file).get("total") == 100)
    shared[0] = 30
    wait_for(lambda: read_json(file)["done"] == 30)
    assert read_json(file)["doing"] == ""
    shared[0] = 35
    progress.close(None, "interrupted")  # at once: it asks a last time
    assert read_json(file)["done"] == 35


def test_a_shared_count_that_is_gone_ends_no_report(tmp_path):
    def gone():
        raise RuntimeError("connection reset")
    file = tmp_path / "progress.json"
    progress = Progress(file, "sample", 100, "steps", 7)
    progress.follow(gone)
    first = read_json(file)["heartbeat"]
    wait_for(lambda: read_json(file)["heartbeat"] > first)
    progress.close(None, "failed")
    assert (read_json(file)["done"], read_json(file)["state"]) == (7, "failed")


def test_a_disk_that_fills_up_meanwhile_ends_neither_the_stage_nor_hides_why_it_ended(tmp_path, monkeypatch, capsys):
    progress = Progress(tmp_path / "progress.json", "train", 10)

    def full(path, text, durable=True):
        raise UserError(f"{path}: no space left on the device")
    monkeypatch.setattr(module, "write_text", full)
    time.sleep(0.1)
    progress.update(3)
    with pytest.raises(ZeroDivisionError):
        try:
            _ = 1 / 0
        finally:
            progress.close(None, "failed")
    assert capsys.readouterr().out.count("no space left") == 2  # once while it works, once at the end


def test_a_run_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        Progress(tmp_path / "file" / "progress.json", "train")


def test_other_ranks_report_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    progress = Progress(None, "train", 10)
    progress.prepare("reading")
    progress.update(2)
    progress.close(2, "done")
    assert os.listdir(tmp_path) == []


def test_heartbeats_wait_for_no_disk_and_the_last_report_does(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(descriptor))
    progress = Progress(tmp_path / "progress.json", "train", 10)
    time.sleep(0.2)
    assert not flushed
    progress.close(10, "done")
    assert flushed


def test_a_launcher_announces_a_stage_before_its_processes_report(tmp_path):
    file = tmp_path / "progress.json"
    announce(file, "sample")
    found = read_json(file)
    assert (found["stage"], found["state"], found["doing"]) == ("sample", "running", "starting")


def test_a_log_has_a_line_for_every_silent_while(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "LINE_S", 0.05)
    progress = Progress(tmp_path / "progress.json", "train")
    progress.prepare("reading the data")
    time.sleep(0.4)
    progress.close(None, "failed")
    assert capsys.readouterr().err.count("train reading the data (0:0") >= 2


def test_a_launcher_whose_processes_ended_leaves_no_stage_that_seems_to_run(tmp_path):
    file = tmp_path / "progress.json"
    end(file)  # nothing there
    announce(file, "train")
    end(file)
    assert (read_json(file)["state"], read_json(file)["doing"]) == ("failed", "")
    for state in ("done", "interrupted", "failed"):
        Progress(file, "train", 9, "steps", 3).close(None, state)
        end(file)
        assert (read_json(file)["state"], read_json(file)["done"]) == (state, 3)
    for content in (b"", b"[]", b"{}", b"\xff"):
        file.write_bytes(content)
        end(file)
        assert file.read_bytes() == content
