"""A rank without a chunk waits for the owners of the last ones, tells that the stage lives, and hears of their death."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest
from noisy_runs import same, trained

# Two ranks, which count a second as longer than a collective may take; rank 1 takes the only chunk and `deed` at its step 20.
STAGE = """
import os, sys, time
from datetime import timedelta
from jobs.parallel import group as module, life
import jobs.sampling.loop as loop, jobs.run.progress as progress
from jobs.stage import run_stage
module.COLLECTIVE_TIMEOUT = timedelta(seconds=2)
life.BEAT_S = life.LOOK_S = 0.1
progress.HEARTBEAT_S = 0.1
rank, deed = int(os.environ["RANK"]), sys.argv[2]
compute_chunks, write_chunk = loop.compute_chunks, loop.write_chunk

def later(*arguments):
    time.sleep(2 if rank == 0 else 0)  # so that rank 1 is first
    return compute_chunks(*arguments)

def slowly(*arguments):
    print("at work", flush=True)
    if deed == "dies":
        os._exit(9)
    time.sleep(6)
    return write_chunk(*arguments)
loop.compute_chunks, loop.write_chunk = later, slowly
outcome = run_stage("sample", sys.argv[1], "m")
print(outcome["state"], outcome["message"])
"""


def start(run, deed):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
                   "LOCAL_WORLD_SIZE": "2"}
    return [subprocess.Popen([sys.executable, "-c", STAGE, str(run.path), deed], stdout=subprocess.PIPE, text=True,
                             env=os.environ | environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]


@pytest.mark.slow
def test_the_owner_of_the_last_chunk_is_waited_for_and_the_stage_shows_that_it_lives(make_run, alone):
    run, other = (trained(make_run("sample.num_samples=4", folder=name)) for name in ("slow", "alone"))
    processes = start(run, "sleeps")
    seen = []
    while any(process.poll() is None for process in processes):
        time.sleep(0.05)
        if run.progress.exists():
            seen.append(json.loads(run.progress.read_text()))
    assert [process.communicate()[0].splitlines()[-1].split()[0] for process in processes] == ["done", "done"]
    working = [each for each in seen if each["state"] == "running" and each.get("done") == 40]
    beats = [each["heartbeat"] for each in working]
    assert beats[-1] - beats[0] > 4 and max(b - a for a, b in zip(beats, beats[1:], strict=False)) < 2
    assert seen[-1]["state"] == "done"
    assert alone(other, "sample") == "done" and same(run, other)


@pytest.mark.slow
def test_the_death_of_the_owner_of_the_last_chunk_ends_the_stage(make_run):
    run = trained(make_run("sample.num_samples=4"))
    processes = start(run, "dies")
    began = time.monotonic()
    said = processes[0].communicate()[0]
    assert "abandoned rank 1" in said and "died" in said and time.monotonic() - began < 60
    assert processes[1].wait() == 9
    assert json.loads((run.path / "failure.json").read_text())["kind"] == "node or network"
    for process in processes:
        process.stdout.close()
