"""Collectives over processes that meet through a file; ranks as launchers give them."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest
import torch

from jobs.errors import StageFailed
from jobs.parallel import group
from jobs.parallel.group import RankInfo, rank_info

COLLECTIVES = """
import os, sys
from pathlib import Path
import torch
from jobs.parallel.group import any_rank, from_main, gather_rows, on_main, process_group
from jobs.errors import UserError

def refuse():
    raise UserError("no")

def check(rank):
    rows = torch.arange(2 * rank).view(rank, 2) + 10 * rank  # none, one and two rows
    assert gather_rows(rows).tolist() == [[10, 11], [20, 21], [22, 23]], gather_rows(rows)
    assert gather_rows(torch.full((3 - rank,), float(rank))).tolist() == [0, 0, 0, 1, 1, 2]
    assert from_main({"rank": rank}) == {"rank": 0}
    assert on_main(lambda: rank) == 0
    assert any_rank(rank == 2) and not any_rank(False)
    try:
        on_main(refuse)
    except UserError as error:
        assert str(error) == "no"
    else:
        raise AssertionError

for rank in range(3):  # forked, because loading torch takes seconds
    if not os.fork():
        os.environ |= {f"SUBMITIT_LOCAL_{key}": str(value)
                       for key, value in {"GLOBALID": rank, "LOCALID": rank, "NTASKS": 3}.items()}
        with process_group(Path(sys.argv[1]), 1) as group:
            check(group.rank)
        sys.exit(0)
print(*(os.wait()[1] for _ in range(3)))
"""


@pytest.mark.slow
def test_collectives_over_three_processes_that_meet_by_a_file(tmp_path):
    command = [sys.executable, "-c", COLLECTIVES, str(tmp_path / "meeting")]
    assert subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120).stdout == "0 0 0\n"


TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
SLURM = {"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}
LOCAL = {"SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_LOCAL_LOCALID": "1"}


@pytest.mark.parametrize("environment, expected", [
    ({}, RankInfo(0, 1, 0)),
    (TORCHRUN, RankInfo(5, 8, 1)),
    (LOCAL, RankInfo(1, 2, 1)),
    (SLURM, RankInfo(0, 1, 0)),  # a shell inside an allocation
    (SLURM | {"SUBMITIT_EXECUTOR": "slurm"}, RankInfo(2, 4, 0)),
    (TORCHRUN | SLURM, RankInfo(5, 8, 1)),
    ({"RANK": "5"}, RankInfo(0, 1, 0)),
])
def test_the_rank_is_the_launchers(monkeypatch, environment, expected):
    for name in [*os.environ]:
        if name in TORCHRUN or name.startswith(("SLURM_", "SUBMITIT_")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert rank_info() == expected


def test_ranks_that_do_not_come_are_named(monkeypatch):
    monkeypatch.setattr(group, "MEETING_TIMEOUT", timedelta(seconds=0.2))
    store = torch.distributed.HashStore()
    store.set("arrived/1", "n1")
    with pytest.raises(StageFailed, match="ranks 2, 3 did not come within 0:00:00.2") as raised:
        group._wait_for_all(store, RankInfo(0, 4, 0))
    assert raised.value.kind == "node or network"
    for rank in (2, 3):
        store.set(f"arrived/{rank}", "n2")
    group._wait_for_all(store, RankInfo(0, 4, 0))


def test_a_rank_0_that_does_not_come_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(group, "MEETING_TIMEOUT", timedelta(seconds=0.2))
    with pytest.raises(StageFailed, match="rank 0 did not come") as raised:
        group._meet(RankInfo(1, 2, 1), tmp_path / "meeting")
    assert raised.value.kind == "node or network"
