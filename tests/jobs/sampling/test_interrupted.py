"""Sampling that is killed or stopped: the next attempt computes the samples of an unbroken one."""

import json
import signal

from noisy_runs import chunk_states, identical, samples, trained, wait_for

LONG = ("sample.num_samples=30", "diffusion.diffusion_steps=100")  # eight chunks of half a second or so
UNBROKEN = {}


def unbroken(make_run, alone):
    """What LONG comes to without interruptions; computed once."""
    if not UNBROKEN:
        run = trained(make_run(*LONG, folder="unbroken"))
        assert alone(run, "sample") == "done"
        UNBROKEN.update(samples(run))
    return UNBROKEN


def test_killed_processes_are_made_up_for(make_run, ranks, alone):
    run = trained(make_run(*LONG))
    both = ranks(run, "sample", 2, wait=False)
    wait_for(lambda: len(chunk_states(run)) >= 1, both)
    for process in both:
        process.kill()
    assert [process.wait() for process in both] == [-9, -9]
    first = chunk_states(run)
    assert 1 <= len(first) <= 6 and not run.samples_h5.exists()

    main, other = ranks(run, "sample", 2, wait=False)
    wait_for(lambda: len(chunk_states(run)) > len(first), (main, other))
    other.kill()
    assert main.wait(timeout=60) == 1  # it does what is left, but for what the other had begun
    assert other.wait() == -9
    second = chunk_states(run)
    assert len(second) >= 7 and not run.samples_h5.exists()
    assert json.loads(run.progress.read_text())["state"] == "failed"

    assert alone(run, "sample") == "done"
    third = chunk_states(run)
    assert first.items() <= second.items() <= third.items() and len(third) == 8
    assert identical(samples(run), unbroken(make_run, alone))


def test_a_signal_to_one_of_two_processes_stops_both_at_once(make_run, ranks, alone):
    run = trained(make_run(*LONG))
    both = ranks(run, "sample", 2, wait=False)
    wait_for(lambda: len(chunk_states(run)) >= 1, both)
    both[1].send_signal(signal.SIGTERM)
    assert [process.wait() for process in both] == [3, 3]
    before = chunk_states(run)
    assert 1 <= len(before) <= 4 and not run.samples_h5.exists()  # no chunk was begun after the signal
    progress = json.loads(run.progress.read_text())
    assert progress["state"] == "interrupted" and 100 <= progress["done"] < progress["total"] == 800

    assert alone(run, "sample") == "done"
    assert json.loads(run.progress.read_text())["total"] == 800 - progress["done"]  # whatever was walked was saved
    assert not list(run.samples.glob("partial-*"))
    assert before.items() <= chunk_states(run).items()
    assert identical(samples(run), unbroken(make_run, alone))
