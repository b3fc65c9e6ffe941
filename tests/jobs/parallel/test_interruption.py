"""Which signal counts when several come, and which are left ignored."""

import subprocess
import sys

import pytest
from paths import ROOT

HEARS = """
import os, signal, sys
from jobs.parallel.interruption import Interruption
interruption = Interruption()
for name in sys.argv[1:]:
    os.kill(os.getpid(), getattr(signal, name))
print(interruption.requested, interruption.by)
"""


@pytest.mark.parametrize("signals, by", [
    ([], ""), (["SIGUSR2"], "SIGUSR2"), (["SIGTERM", "SIGUSR2"], "SIGTERM"),
    (["SIGUSR2", "SIGTERM"], "SIGTERM"),  # a job that was asked to restart, and then cancelled
    (["SIGHUP", "SIGUSR2", "SIGINT", "SIGTERM"], "SIGINT")])
def test_after_a_stop_a_job_must_not_start_again_whatever_came_before(signals, by):
    done = subprocess.run([sys.executable, "-c", HEARS, *signals], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [str(bool(signals)), *([by] if by else [])], done.stderr


@pytest.mark.parametrize("ignored", ["HUP", "INT"])
def test_a_signal_that_was_ignored_from_the_start_is_ignored(ignored):
    script = f"trap '' {ignored}; exec \"$@\""
    done = subprocess.run(["sh", "-c", script, "sh", sys.executable, "-c", HEARS, f"SIG{ignored}"], cwd=ROOT, capture_output=True,
                          text=True, timeout=60)
    assert done.stdout.split() == ["False"], done.stderr
