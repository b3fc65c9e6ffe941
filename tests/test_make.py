"""What the targets of the Makefile run, and what they tell a machine: their exit status."""

import subprocess

import pytest
import yaml
from paths import ROOT

LINT = ["-m ruff check", "-m mypy diffusion jobs slurm"]


@pytest.fixture
def make(tmp_path):
    """make(target, failing="pytest") -> (exit status, what Python was called with), where the module `failing` exits with 1."""
    for name in ("setup.cfg", "constraints.txt", ".venv/.installed", ".venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".venv/bin/python").chmod(0o755)

    def run(target: str, failing: str = "nothing") -> tuple[int, list[str]]:
        calls = tmp_path / "calls"
        calls.unlink(missing_ok=True)
        (tmp_path / ".venv/bin/python").write_text(f'#!/bin/sh\necho "$*" >> {calls}\ntest "$2" != {failing}\n')
        done = subprocess.run(["make", "-f", ROOT / "Makefile", target], cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, calls.read_text().splitlines()
    return run


def test_make_test_runs_lint_and_then_all_tests(make):
    status, calls = make("test")
    assert status == 0 and calls[:2] == LINT and len(calls) == 3
    assert calls[2].startswith("-m pytest") and "slow" not in calls[2]


@pytest.mark.parametrize("failing, calls", [("ruff", 1), ("mypy", 2), ("pytest", 3)])
def test_make_test_fails_where_lint_or_a_test_does(make, failing, calls):
    status, called = make("test", failing)
    assert status != 0 and len(called) == calls


def test_make_test_fast_leaves_out_what_is_slow(make):
    status, calls = make("test-fast")
    assert status == 0 and len(calls) == 1 and "not slurm and not browser and not slow" in calls[0]
    assert make("test-fast", "pytest")[0] != 0


def test_make_gpu_and_wheelhouse_call_their_programs(make):
    assert make("gpu") == (0, ["tests/gpu/run_all.py"])
    assert make("wheelhouse") == (0, ["-m slurm.wheelhouse"])


def test_pre_commit_calls_make_lint(make):
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == ["make lint"] and make("lint") == (0, LINT)
