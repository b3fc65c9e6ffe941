import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion.timestep_samplers import LossSecondMomentSampler, UniformSampler


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_probabilities_agree_with_golden(golden):
    expected = golden.arrays("loss_second_moment")
    sampler = LossSecondMomentSampler(20)

    def check(key):
        weights = expected[key] / expected[key].sum()
        np.testing.assert_allclose(sampler.probabilities(), weights, rtol=1e-12)

    check("weights_before")
    t, losses = torch.from_numpy(expected["timesteps"]), torch.from_numpy(expected["losses"])
    sampler.update(t[:150], losses[:150])
    check("weights_after_150")
    sampler.update(t[150:], losses[150:])
    check("weights_after_all")


def test_importance_weights_keep_the_expectation():
    sampler = LossSecondMomentSampler(10, history_per_step=2)
    loss_at = torch.linspace(0.1, 5, 10)
    sampler.update(torch.arange(10).repeat(2), loss_at.repeat(2))
    assert sampler.warmed_up
    t, weights = sampler.sample(200_000, _generator())
    assert (weights * loss_at[t]).mean().item() == pytest.approx(loss_at.mean().item(), rel=0.01)
    assert len(t.bincount().unique()) > 1  # not uniform any more


def test_saved_state_continues_exactly():
    sampler, restored = LossSecondMomentSampler(6, 3), LossSecondMomentSampler(6, 3)
    sampler.update(torch.tensor([0, 1, 2, 3, 4, 5] * 3), torch.rand(18))
    restored.load_state_dict(sampler.state_dict())
    torch.testing.assert_close(restored.sample(50, _generator()), sampler.sample(50, _generator()), rtol=0, atol=0)
    with pytest.raises(ValueError, match="does not fit"):
        LossSecondMomentSampler(7, 3).load_state_dict(sampler.state_dict())


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 10)), max_size=60), st.integers(1, 20))
def test_how_losses_arrive_in_batches_does_not_matter(stream, cut):
    whole, pieces = LossSecondMomentSampler(5, 4), LossSecondMomentSampler(5, 4)
    t, losses = torch.tensor([s for s, _ in stream], dtype=torch.int64), torch.tensor([loss for _, loss in stream])
    whole.update(t, losses)
    for start in range(0, len(stream), cut):
        pieces.update(t[start:start + cut], losses[start:start + cut])
    np.testing.assert_array_equal(whole.history, pieces.history)
    np.testing.assert_allclose(whole.probabilities().sum(), 1)


def test_a_loss_that_is_not_finite_is_left_out():
    sampler = LossSecondMomentSampler(2, 1)
    sampler.update(torch.tensor([0, 1, 0]), torch.tensor([1.0, float("nan"), float("inf")]))
    assert sampler.counts.tolist() == [1, 0]


def test_uniform_covers_all_timesteps_with_weight_one():
    t, weights = UniformSampler(7).sample(1000, _generator())
    assert set(t.tolist()) == set(range(7)) and set(weights.tolist()) == {1.0}
