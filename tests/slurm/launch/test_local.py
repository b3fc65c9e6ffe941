"""`iddpm run` gives the ranks the GPUs that the user chose, and a stage without GPUs none."""

import contextlib
import os
import re
import signal
import sys
import time

import pytest

from jobs.errors import StageFailed, UserError
from jobs.spec.resources import StageResources
from slurm.launch import local, local_ranks
from slurm.launch.local import _full_disk, processes_here

UNIQUE = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,MIG-0b4a5f5e-0000-0000-0000-000000000002"


@pytest.mark.parametrize("resources, present, expected", [
    ({"gpus_per_node": 2}, ["2", "3"], (2, ["2", "3"])),
    ({"gpus_per_node": 2}, ["4", "5", "6"], (2, ["4", "5"])),
    ({"gpus_per_node": 2, "nodes": 2}, ["4", "5", "6"], (3, ["4", "5", "6"])),
    ({"gpus_per_node": 1, "tasks_per_node": 2}, ["3"], (2, ["3"])),
    ({"gpus_per_node": 4}, [], (1, [])),
    ({"gpus_per_node": 4, "tasks_per_node": 2}, [], (2, [])),
    ({}, ["0", "1"], (1, [])),
    ({"tasks_per_node": 2}, ["0", "1"], (2, [])),
])
def test_processes_and_their_gpus(resources, present, expected):
    assert processes_here(StageResources(**resources), present) == expected


def seen_by_ranks(stage: str, run_path: str, meeting: str) -> dict:
    """Stands in for run_stage: each rank says what it was started with."""
    with open(f"/proc/{os.getpid()}/environ", "rb") as file:
        started = dict(entry.split(b"=", 1) for entry in file.read().split(b"\0") if b"=" in entry)
    print("started with", repr(started[b"CUDA_VISIBLE_DEVICES"].decode()), flush=True)
    return {"state": "done", "message": "", "signal": ""}


@pytest.mark.slow
@pytest.mark.parametrize("visible, present, gpus, ranks, note", [
    ("2,3", 4, 2, ["2,3", "2,3"], False),
    ("3,2,1", 4, 2, ["3,2", "3,2"], False),
    (UNIQUE, 2, 2, [UNIQUE, UNIQUE], False),
    ("2,3", 4, 0, [""], False),
    (None, 2, 2, ["0,1", "0,1"], False),
    ("2,3", 0, 2, ["2,3"], True),  # a machine without GPUs
    ("NoDevFiles", 4, 2, ["NoDevFiles"], True),
    ("", 4, 2, [""], True),
])
def test_the_ranks_get_the_users_list(make_run, monkeypatch, capsys, visible, present, gpus, ranks, note):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("jobs.parallel.devices.gpus_present", lambda: present)
    monkeypatch.setattr(local, "run_stage", seen_by_ranks)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), *sys.path]))
    run = make_run(f"resources.train.gpus_per_node={gpus}", "resources.train.tasks_per_node=null")
    local.run_locally(run, "train")
    logs = [log.read_text() for log in sorted((run.logs / "train").rglob("*_log.out"))]
    assert [re.search(r"started with '(.*)'", log)[1] for log in logs] == ranks
    assert ("asks for GPUs and there are none here" in capsys.readouterr().out) == note


def dies(how: str):
    """Stands in for run_stage: rank 1 dies or fails before the ranks have met, and the others wait for it."""
    def stage(stage: str, run_path: str, meeting: str) -> dict:
        import signal
        import time
        if os.environ["SUBMITIT_LOCAL_GLOBALID"] == "1":
            time.sleep(0.5)
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            return {"state": how, "message": f"rank 1 {how}", "signal": ""}
        time.sleep(1 if how == "done" else 60)
        return {"state": "done", "message": "", "signal": ""}
    return stage


@pytest.mark.slow
@pytest.mark.parametrize("how, error, message", [
    ("killed", StageFailed, "train: rank 1 died without a message"), ("failed", StageFailed, "rank 1 failed"),
    ("refused", UserError, "rank 1 refused"), ("done", None, "")])
def test_a_rank_that_ends_badly_while_the_others_meet_ends_the_stage_at_once(make_run, monkeypatch, how, error, message):
    monkeypatch.setattr(local, "run_stage", dies(how))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), *sys.path]))
    run, began = make_run("resources.train.tasks_per_node=3"), time.monotonic()
    with pytest.raises(error, match=message) if error else contextlib.nullcontext():
        local.run_locally(run, "train")
    assert time.monotonic() - began < 45  # the others would have waited for a minute


@pytest.mark.slow
def test_a_rank_that_is_killed_before_it_meets_the_others(make_run, monkeypatch):
    """With the real stage: rank 1 is killed while torch loads, and rank 0 would wait for ten minutes."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    run, killed = make_run("resources.train.tasks_per_node=2"), []
    look = local_ranks.living_ranks

    def kill_rank_1(controller):
        alive = look(controller)
        if len(alive) == 2 and not killed:
            killed.append(alive[1])
            os.kill(alive[1], signal.SIGKILL)
        return alive
    monkeypatch.setattr(local_ranks, "living_ranks", kill_rank_1)
    with pytest.raises(StageFailed, match="train: rank 1 died without a message"):
        local.run_locally(run, "train")
    assert killed


def test_a_rank_that_could_not_write_why_it_died_is_no_riddle(tmp_path):
    log = tmp_path / "log.out"
    assert _full_disk(log) == ""
    log.write_text("OSError: [Errno 28] No space left on device\n" + "step\n" * 2000)
    assert _full_disk(log) == ""  # long before the end
    with open(log, "a") as file:
        file.write("OSError: [Errno 122] Disk quota exceeded\n")
    assert _full_disk(log) == "Disk quota exceeded"
