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
