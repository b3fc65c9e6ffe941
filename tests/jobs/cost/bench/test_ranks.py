"""Training over several processes: scaling, and ranks that are killed or fail."""

import pytest

from jobs.cost.bench import ranks as bench_ranks
from jobs.cost.bench.ranks import measure_scaling, started


@pytest.mark.slow
def test_two_ranks_are_measured_against_one(spec, short):
    [scaling] = measure_scaling(spec, short)
    assert (scaling.ranks, scaling.threads, scaling.problem) == (2, 1, "")
    assert 0 < scaling.efficiency.q25 <= scaling.efficiency.median <= scaling.efficiency.q75


def test_a_rank_that_is_killed_is_reported(spec):
    with started(spec, 2, 1) as ranks:
        ranks.processes[1].kill()
        with pytest.raises(RuntimeError, match="a rank was killed"):
            ranks.seconds_of(1)  # while the first waits for the second
        assert ranks.processes[0].is_alive()
    assert not ranks.processes[0].is_alive()
    broken = spec.model_copy(update={"model": spec.model.model_copy(update={"num_heads": 3})})
    with started(broken, 1, 1) as ranks, pytest.raises(RuntimeError, match="^ValueError: 3 heads do not divide 16 channels$"):
        ranks.seconds_of(1)


def test_scaling_that_fails_is_a_row(spec, monkeypatch, short):
    def fail(self, steps):
        raise RuntimeError("a rank was killed")
    monkeypatch.setattr(bench_ranks.RankProcesses, "seconds_of", fail)
    [scaling] = measure_scaling(spec, short)
    assert (scaling.ranks, scaling.efficiency, scaling.problem) == (2, None, "a rank was killed")


@pytest.mark.slow
def test_ranks_train_with_checkpointing_at_some_resolutions(spec):
    listed = spec.model_copy(update={"train": spec.train.model_copy(update={"gradient_checkpointing": [8]})})
    with started(listed, 1, 1) as ranks:
        assert ranks.seconds_of(1) > 0
