"""`iddpm run` gives the ranks the GPUs that the user chose, and a stage without GPUs none."""

import os
import re
import sys

import pytest

from jobs.spec.sections import StageResources
from slurm.launch import local
from slurm.launch.local import processes_here

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
