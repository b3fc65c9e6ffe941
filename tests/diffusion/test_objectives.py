import pytest
import torch

from diffusion.gaussian import GaussianDiffusion
from diffusion.losses import training_losses
from diffusion.objectives import LOSSES, TIMESTEP_SAMPLERS, timestep_sampler
from diffusion.schedules import betas_of
from diffusion.timestep_samplers import LossSecondMomentSampler, UniformSampler


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("variance", ["learned_range", "fixed_small"])
def test_the_table_says_which_values_a_loss_has_and_whether_it_trains_the_variance(golden, name, variance):
    torch.manual_seed(0)
    diffusion, learned = GaussianDiffusion(betas_of("cosine", 100), variance=variance), variance == "learned_range"
    x_start, noise = torch.rand(2, 2, 1, 4, 4)
    output = torch.randn(2, 1 + learned, 4, 4, requires_grad=True)
    values = training_losses(diffusion, lambda x, time: output, x_start, torch.tensor([0, 50]), noise, name)
    assert tuple(values) == LOSSES[name].terms
    values["loss"].sum().backward()
    assert output.grad[:, :1].abs().sum() > 0
    if learned:
        assert (output.grad[:, 1:].abs().sum() > 0) == LOSSES[name].trains_variance


def test_losses_by_name():
    assert {name: loss.terms for name, loss in LOSSES.items()} == {
        "simple": ("loss", "mse"), "hybrid": ("loss", "mse", "vb"), "vlb": ("loss",),
        "hybrid_unscaled": ("loss", "mse", "vb"), "vlb_unscaled": ("loss",)}
    assert [name for name, loss in LOSSES.items() if loss.needs_learned_variance] == ["hybrid", "hybrid_unscaled"]
    assert [name for name, loss in LOSSES.items() if not loss.trains_variance] == ["simple"]
    diffusion, x = GaussianDiffusion(betas_of("cosine", 100)), torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="unknown loss 'mse'; there are simple, hybrid, vlb, hybrid_unscaled and vlb_unscaled"):
        training_losses(diffusion, lambda x, time: x, x, torch.tensor([5]), x, "mse")


def test_timestep_samplers_by_name():
    samplers = {name: timestep_sampler(name, 20) for name in TIMESTEP_SAMPLERS}
    assert isinstance(samplers["uniform"], UniformSampler) and isinstance(samplers["loss-second-moment"], LossSecondMomentSampler)
    for name, sampler in samplers.items():
        before = {key: value.clone() for key, value in sampler.state_dict().items()}
        sampler.update(torch.tensor([3]), torch.tensor([1.0]))
        changed = any(not torch.equal(before[key], value) for key, value in sampler.state_dict().items())
        assert changed == TIMESTEP_SAMPLERS[name].reads_losses
        t, weights = sampler.sample(8, torch.Generator())
        assert t.shape == weights.shape == (8,) and t.max() < 20
    with pytest.raises(ValueError, match="unknown schedule_sampler 'even'; there are uniform and loss-second-moment"):
        timestep_sampler("even", 20)
