"""Ranks wait for each other as long as they live, and hear at once of one that does not."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
import torch.distributed as dist

from jobs.errors import StageFailed
from jobs.parallel import life as module
from jobs.parallel.life import Life
from jobs.run.failures import failure_kind


@pytest.fixture
def pair(monkeypatch):
    """Two ranks of one process that share a store."""
    monkeypatch.setattr(module, "BEAT_S", 0.05)
    monkeypatch.setattr(module, "LOOK_S", 0.05)
    store = dist.HashStore()
    ranks = [Life(store, rank, 2) for rank in range(2)]
    yield ranks
    for rank in ranks:
        rank.ended.set()
        rank.thread.join()


def later(seconds, work):
    def wait_and_work():
        time.sleep(seconds)
        work()
    thread = threading.Thread(target=wait_and_work)
    thread.start()
    return thread


def test_a_rank_waits_for_another_one_that_lives(pair, monkeypatch):
    monkeypatch.setattr(module, "SILENT_S", 0.3)
    asked = []
    thread = later(1.0, pair[1].meet)
    began = time.monotonic()
    pair[0].meet(lambda: asked.append(1))
    assert time.monotonic() - began > 0.9 and len(asked) > 2
    thread.join()
    other = later(0, pair[1].meet)
    pair[0].meet()  # the next meeting is another one
    other.join()


def test_a_rank_that_gives_no_more_sign_is_missed(pair, monkeypatch):
    monkeypatch.setattr(module, "SILENT_S", 0.3)
    pair[1].ended.set()
    pair[1].thread.join()
    with pytest.raises(StageFailed, match="rank 1 .* gave no sign of life") as error:
        pair[0].meet()
    assert failure_kind(error.value) == "node or network"


def test_a_rank_that_lives_but_gets_nowhere_is_missed(pair, monkeypatch):
    monkeypatch.setattr(module, "STILL_S", 0.5)
    stands_still = threading.Thread(target=lambda: pytest.raises(StageFailed, pair[0].meet))
    stands_still.start()
    stands_still.join(20)  # the main thread waits here all the time
    assert not stands_still.is_alive()


def test_a_process_that_died_on_this_machine_is_missed_at_once(pair):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    time.sleep(0.5)  # a zombie, as long as nobody waits for it
    pair[1].store.set("life/1/who", json.dumps([module.this_machine(), dead.pid, "n1"]))
    with pytest.raises(StageFailed, match=rf"rank 1 \(process {dead.pid} on n1\) died"):
        pair[0].meet()
    dead.wait()
    with pytest.raises(StageFailed, match="died"):
        pair[0].meet()


def test_a_rank_that_ends_with_an_error_is_missed_at_once(pair):
    pair[1].leave(well=False)
    with pytest.raises(StageFailed, match="rank 1 ended with an error"):
        pair[0].meet()


def test_rank_0_keeps_the_store_until_the_others_are_out(pair):
    thread = later(0.5, lambda: pair[1].leave(well=True))
    began = time.monotonic()
    pair[0].leave(well=True)
    assert time.monotonic() - began > 0.4
    thread.join()


def test_a_failed_rank_0_does_not_wait_long(pair, monkeypatch):
    monkeypatch.setattr(module, "LAST_WORDS_S", 0.2)
    began = time.monotonic()
    pair[0].leave(well=False)
    assert time.monotonic() - began < 5


# Rank 1 takes far longer over its part than a collective waits. argv: meeting file, what rank 1 does.
SLOW = """
import os, sys, time
from datetime import timedelta
from pathlib import Path
from jobs.errors import StageFailed
from jobs.parallel import group as module, life
module.COLLECTIVE_TIMEOUT = timedelta(seconds=2)
life.BEAT_S = life.LOOK_S = 0.1

def work(rank):
    if rank == 1:
        if sys.argv[2] == "dies":
            os._exit(9)
        if sys.argv[2] == "fails":
            raise ValueError("no luck")
        time.sleep(5)
    return module.any_rank(rank == 1) and module.on_main(lambda: time.sleep(4) or rank == 0)

children = []
for rank in range(2):
    child = os.fork()
    if child:
        children.append(child)
        continue
    os.environ |= {f"SUBMITIT_LOCAL_{key}": str(value)
                   for key, value in {"GLOBALID": rank, "LOCALID": rank, "NTASKS": 2}.items()}
    try:
        with module.process_group(Path(sys.argv[1]), 1, gpu=False) as group:
            assert work(group.rank)
        os._exit(0)
    except StageFailed as error:
        print(rank, error, flush=True)
        os._exit(3)
    except ValueError:
        os._exit(4)
print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("what", "status", "words"), (("sleeps", "0 0", ""), ("dies", "3 9", "died"),
                                                      ("fails", "3 4", "ended with an error")))
def test_a_slow_rank_is_waited_for_beyond_the_time_of_a_collective_and_a_dead_one_is_not(tmp_path, what, status, words):
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", SLOW, str(tmp_path / "meeting"), what], stdout=subprocess.PIPE, text=True,
                          timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"})
    *said, last = done.stdout.splitlines()
    assert last == status and words in "".join(said)
    assert what == "sleeps" or time.monotonic() - began < 60
