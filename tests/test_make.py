"""What `make test` tells a machine: its exit status."""

import subprocess

import pytest
from paths import ROOT

MAKEFILE = ROOT / "Makefile"


@pytest.mark.parametrize("status", [0, 1])
def test_make_test_fails_where_a_test_does(tmp_path, status):
    for name in ("setup.cfg", "constraints.txt", ".venv/.installed", ".venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".venv/bin/python").write_text(f"#!/bin/sh\nexit {status}\n")
    (tmp_path / ".venv/bin/python").chmod(0o755)
    done = subprocess.run(["make", "-f", MAKEFILE, "test"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode != 0) == (status != 0), done.stdout + done.stderr
