"""The rate of work is that of the recent work, without pauses."""

import pytest

from jobs.run import pace as module
from jobs.run.pace import Pace


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def work(pace, clock, start, steps, seconds_each):
    for step in range(start + 1, start + steps + 1):
        clock.now += seconds_each
        pace.add(step)


def test_nothing_is_known_at_first(clock):
    pace = Pace()
    assert pace.rate() is None
    pace.add(0)
    clock.now += 5
    assert pace.rate() is None


def test_the_first_step_only_starts_the_clock(clock):
    pace = Pace()
    clock.now += 500  # compiling
    pace.add(1)
    work(pace, clock, 1, 10, 2.0)
    assert pace.rate() == pytest.approx(0.5)


def test_work_of_long_ago_does_not_count(clock):
    pace = Pace()
    pace.add(0)
    work(pace, clock, 0, 10, 60.0)
    work(pace, clock, 10, 200, 1.0)
    assert pace.rate() == pytest.approx(1.0)


def test_pauses_do_not_count(clock):
    pace = Pace()
    pace.add(0)
    work(pace, clock, 0, 10, 2.0)
    pace.pause()
    pace.pause()  # still the same one
    clock.now += 1000
    assert pace.rate() == pytest.approx(0.5)
    pace.resume()
    work(pace, clock, 10, 10, 2.0)
    assert pace.rate() == pytest.approx(0.5)


def test_slow_steps_are_averaged_over_some_of_them(clock):
    pace = Pace()
    pace.add(0)
    for step in range(1, 21):
        clock.now += 100.0 if step % 2 else 140.0
        pace.add(step)
    assert pace.rate() == pytest.approx(1 / 120, rel=0.1)


def test_many_quick_steps_take_little_memory(clock):
    pace = Pace()
    pace.add(0)
    work(pace, clock, 0, 100_000, 0.001)
    assert pace.rate() == pytest.approx(1000, rel=0.05) and len(pace.points) < 70


def test_the_rate_falls_where_nothing_more_comes(clock):
    pace = Pace()
    pace.add(0)
    work(pace, clock, 0, 10, 1.0)
    clock.now += 90
    assert pace.rate() == pytest.approx(0.1)


def test_other_work_starts_anew(clock):
    pace = Pace()
    pace.add(0)
    work(pace, clock, 0, 10, 1.0)
    pace.restart()
    assert pace.rate() is None
