"""Collectives, over processes that meet by a file."""

import subprocess
import sys

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

for rank in range(3):  # forked, because loading torch is what takes long
    if not os.fork():
        os.environ |= {f"SUBMITIT_LOCAL_{key}": str(value)
                       for key, value in {"GLOBALID": rank, "LOCALID": rank, "NTASKS": 3}.items()}
        with process_group(Path(sys.argv[1]), 1) as group:
            check(group.rank)
        sys.exit(0)
print(*(os.wait()[1] for _ in range(3)))
"""


def test_collectives_over_three_processes_that_meet_by_a_file(tmp_path):
    command = [sys.executable, "-c", COLLECTIVES, str(tmp_path / "meeting")]
    assert subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120).stdout == "0 0 0\n"
