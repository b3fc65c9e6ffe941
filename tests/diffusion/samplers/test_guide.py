"""Where a guide and a network with phases enter a chain: classifier guidance, and guidance within an interval, build on it."""

import numpy as np
import pytest
import torch

from diffusion.gaussian import GaussianDiffusion
from diffusion.samplers.ancestral import ancestral
from diffusion.samplers.ddim import ddim
from diffusion.samplers.denoiser import At, Denoiser, Phased
from diffusion.samplers.table import SAMPLERS, sampler_function
from diffusion.schedules import betas_of

K = 6


def _diffusion(**options) -> GaussianDiffusion:
    return GaussianDiffusion(betas_of("linear", 100), timesteps=list(range(0, 100, 17)), variance="learned_range", **options)


@pytest.fixture
def x_T() -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def _guide(x, time):
    return torch.cos(x) * (1 + time / 100)[:, None, None, None]


@pytest.mark.parametrize("predict", ["epsilon", "x_start", "x_prev"])
def test_a_guide_moves_the_mean_of_the_ancestral_sampler(golden, x_T, predict):
    """Dhariwal & Nichol 2021, algorithm 1: mean + variance * gradient, and pred_xstart stays."""
    diffusion, network = _diffusion(predict=predict), golden.standin(True)
    x, noise = x_T, torch.ones_like(x_T)
    for step in ancestral(Denoiser(diffusion, network, guide=_guide), {"x": x_T}, torch.ones_like):
        t = torch.full((2,), step.t)
        p = diffusion.p_mean_variance(network, x, t)
        mean = p.mean + p.variance * _guide(x, diffusion.network_times[t])
        x = mean + (p.log_variance / 2).exp() * noise * (step.t > 0)
        torch.testing.assert_close(step.x, x, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(step.pred_xstart, p.pred_xstart, rtol=1e-4, atol=1e-5)


def test_a_guide_moves_the_score_in_ddim_and_the_image_is_not_clipped_again(golden, x_T):
    """Dhariwal & Nichol 2021, algorithm 2: epsilon - sqrt(1 - alpha_bar) * gradient."""
    diffusion, network, x = _diffusion(), golden.standin(True), x_T
    beyond = False
    for step in ddim(Denoiser(diffusion, network, guide=_guide), {"x": x_T}, torch.zeros_like):
        t = torch.full((2,), step.t)
        now, before = diffusion.coefficients.alphas_cumprod[step.t], diffusion.coefficients.alphas_cumprod_prev[step.t]
        epsilon = diffusion.epsilon(x, t, diffusion.p_mean_variance(network, x, t).pred_xstart)
        epsilon = epsilon - np.sqrt(1 - now) * _guide(x, diffusion.network_times[t])
        pred_xstart = (x - np.sqrt(1 - now) * epsilon) / np.sqrt(now)
        x = np.sqrt(before) * pred_xstart + np.sqrt(1 - before) * epsilon
        torch.testing.assert_close(step.x, x, rtol=1e-4, atol=1e-5)
        beyond |= bool((step.pred_xstart.abs() > 1.01).any())
    assert beyond


class Within:
    """A network, or a guide, that does more work at some steps; `seen` counts the calls of each phase."""

    def __init__(self, phases, *values):
        self.phases, self.values, self.seen = phases, values, [0] * len(values)

    def along(self, times):
        def at_step(phase):
            def call(x, number):
                self.seen[phase] += 1
                return self.values[phase](x)
            return call
        return Phased([at_step(phase) for phase in range(len(self.values))], self.phases)


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
def test_phases_choose_the_work_of_each_step_also_where_steps_are_recorded(x_T, graphs_without_gpu, name, cuda_graph):
    """Against a network and a guide that tell from the time which step it is. Heun's method does the work of two steps in one."""
    phases, guided, diffusion, sampler = [0, 1, 1, 0, 1, 1], [1, 1, 0, 0, 1, 1], _diffusion(), sampler_function(name)
    network = Within(phases, lambda x: torch.cat([x / 2, x], 1), lambda x: torch.cat([x / 3, x], 1))
    denoise = Denoiser(diffusion, network, guide=Within(guided, lambda x: None, torch.cos))
    steps = list(sampler(denoise, {"x": x_T}, torch.ones_like, cuda_graph=cuda_graph))

    times = diffusion.network_times.tolist()
    plain = Denoiser(diffusion, lambda x, t: torch.cat([x / (2 + phases[times.index(t[0])]), x], 1),
                     guide=lambda x, t: torch.cos(x) * guided[times.index(t[0])])
    for step, expected in zip(steps, sampler(plain, {"x": x_T}, torch.ones_like), strict=True):
        assert torch.equal(step.x, expected.x) and torch.equal(step.pred_xstart, expected.pred_xstart)


def test_no_step_evaluates_the_network_of_another_phase(x_T):
    network = Within([0, 1, 1, 0, 0, 1], lambda x: torch.cat([x, x], 1), lambda x: torch.cat([x, x], 1))
    guide = Within([0, 0, 0, 0, 0, 1], lambda x: None, torch.cos)
    list(ddim(Denoiser(_diffusion(), network, guide=guide), {"x": x_T}, torch.zeros_like))
    assert network.seen == [3, 3] and guide.seen == [5, 1]


def test_the_next_step_is_one_lower():
    at = At(torch.tensor([4]), 4).next()
    assert (at.number.tolist(), at.step) == ([3], 3)
