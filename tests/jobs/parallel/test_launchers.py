"""Which variables make a rank, and which are somebody else's."""

import os
import subprocess
import sys

import pytest
from paths import ROOT

from jobs.parallel.launchers import TORCHRUN, forget_launchers, under_torchrun

FULL = dict(zip(TORCHRUN, ("1", "2", "1", "127.0.0.1", "29500"), strict=True))


@pytest.mark.parametrize("environment, answer", [
    (FULL, True), (FULL | {"TORCHELASTIC_RUN_ID": "x"}, True), ({}, False), ({"RANK": "0"}, False),
    ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, False), (FULL | {"WORLD_SIZE": "1"}, False),
    (FULL | {"RANK": ""}, False),
    (FULL | {"MASTER_PORT": "auto"}, False), (FULL | {"SUBMITIT_EXECUTOR": "slurm"}, False), ({"MASTER_ADDR": "n1"}, False)])
def test_only_a_full_set_that_fits_together_is_torchruns(environment, answer):
    assert under_torchrun(environment) == answer


def test_what_other_launchers_left_is_forgotten_and_the_rest_kept(monkeypatch):
    for key in (*TORCHRUN, "TORCHELASTIC_RUN_ID", "SUBMITIT_EXECUTOR", "MINE"):
        monkeypatch.setenv(key, "1")
    forget_launchers(keep=("SUBMITIT_",))
    assert not {*TORCHRUN, "TORCHELASTIC_RUN_ID"} & os.environ.keys() and {"SUBMITIT_EXECUTOR", "MINE"} <= os.environ.keys()


@pytest.mark.slow
@pytest.mark.parametrize("left", [{"RANK": "0"}, {"RANK": "3", "WORLD_SIZE": "4"}, FULL])
def test_commands_know_their_own_ranks(tmp_path, left):
    done = subprocess.run([sys.executable, "-m", "slurm.cli.main", "score", "digits-test", "--reference", "digits"],
                          env=os.environ | left | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True,
                          timeout=200)
    assert done.returncode == 0 and "fid" in done.stdout, done.stderr
