import pytest
import torch

from diffusion.ema import update_ema


def test_an_average_moves_by_its_rate_and_the_weights_stay():
    parameters = [torch.randn(3, 2, requires_grad=True), torch.randn(4, requires_grad=True)]
    averages = [torch.randn(3, 2), torch.randn(4)]
    kept = [parameter.detach().clone() for parameter in parameters]
    expected = [0.9 * average + 0.1 * parameter for average, parameter in zip(averages, kept, strict=True)]
    update_ema(averages, parameters, 0.9)
    for average, parameter, old, wanted in zip(averages, parameters, kept, expected, strict=True):
        torch.testing.assert_close(average, wanted)
        assert torch.equal(parameter, old) and not average.requires_grad


@pytest.mark.parametrize("rate", [0.9999, 0.9, 0.5])
def test_a_skipped_step_moves_no_average(rate):
    parameters, averages = [torch.randn(3, 2), torch.randn(1000)], [torch.randn(3, 2), torch.randn(1000)]
    kept, moved = ([average.clone() for average in averages] for _ in range(2))
    update_ema(averages, parameters, rate, skip=torch.ones(()))
    assert all(map(torch.equal, averages, kept))
    update_ema(averages, parameters, rate, skip=torch.zeros(()))
    update_ema(moved, parameters, rate)
    assert all(map(torch.equal, averages, moved)) and not any(map(torch.equal, averages, kept))
