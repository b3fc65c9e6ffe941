"""Sampling that is broken off in the middle of a chunk."""

import signal
import subprocess
import sys

# Dies by SIGKILL in the first chunk, after three steps, each of which was saved.
DIES = """
import os, signal, runpy, sys
import jobs.sampling.loop as loop
loop.SAVE_EVERY_S, loop.TELL_EVERY, save, saved = 0.0, 1, loop.save_partial, []
def save_and_die(*arguments):
    save(*arguments)
    saved.append(1)
    if len(saved) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
loop.save_partial = save_and_die
sys.argv = ["stage", "sample", sys.argv[1]]
runpy.run_module("jobs.stage", run_name="__main__")
"""


class Killed(BaseException):
    """Ends sampling in this process as kill -9 does: nothing is saved any more."""


def die_in_the_first_chunk(run) -> None:
    """Sample in a process that ends by kill -9 once three steps of the first chunk are saved."""
    assert subprocess.run([sys.executable, "-c", DIES, run.path], capture_output=True).returncode == -signal.SIGKILL
    assert [file.name for file in run.samples.iterdir()] == ["partial-00000.h5"]
