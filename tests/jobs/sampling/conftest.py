"""What several tests of sampling need."""

import pytest

import jobs.sampling.loop


@pytest.fixture
def walked(monkeypatch):
    """The steps that sampling took, one after the other, each by the number of steps that are left behind it."""
    seen, steps = [], jobs.sampling.loop.steps_of_chunk

    def counted(*arguments):
        for step in steps(*arguments):
            seen.append(step.left)
            yield step
    monkeypatch.setattr(jobs.sampling.loop, "steps_of_chunk", counted)
    return seen
