"""How far solvers are from the solution, by their steps: which timesteps suit them, and which make them worse than DDIM."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from solver_chains import ending_at, no_noise

from diffusion.gaussian import GaussianDiffusion
from diffusion.respacing import lambdas_of, space_timesteps
from diffusion.samplers.chain import final
from diffusion.samplers.denoiser import Denoiser
from diffusion.samplers.heun import two_slopes
from diffusion.samplers.table import SAMPLERS, sampler_function
from diffusion.schedules import alphas_cumprod_of, betas_of, half_log_snr

T = 1000
CENTRES, SHARES, SPREAD = torch.tensor([-0.7, 0.1, 0.8], dtype=torch.float64), torch.tensor([0.3, 0.3, 0.4]), 0.2


def knowing(schedule: str) -> Callable:
    """A network that knows the data, a mixture of normal distributions in each pixel, and gives the mean of x_start given x_t."""
    alphas_cumprod = torch.from_numpy(alphas_cumprod_of(betas_of(schedule, T)))

    def network(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        alpha_bar = alphas_cumprod[time.long()].view(-1, 1, 1, 1, 1)
        total = alpha_bar * SPREAD ** 2 + 1 - alpha_bar
        apart = x.double()[..., None] - alpha_bar.sqrt() * CENTRES
        given = (SHARES.log() - apart ** 2 / (2 * total)).softmax(-1)
        return (given * (CENTRES + alpha_bar.sqrt() * SPREAD ** 2 / total * apart)).sum(-1).float()
    return network


X_T = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def solved(schedule: str, sampler: str, timesteps: list[int] | None, end: float | None = None) -> torch.Tensor:
    diffusion = GaussianDiffusion(betas_of(schedule, T), predict="x_start", timesteps=timesteps)
    if end is not None:
        ending_at(diffusion, end)
    return final(sampler_function(sampler)(Denoiser(diffusion, knowing(schedule), clip_denoised=False), {"x": X_T}, no_noise))


def apart(x: torch.Tensor, truth: torch.Tensor) -> float:
    return ((x - truth).norm() / truth.norm()).item()


@pytest.fixture(scope="module")
def truth() -> dict[str, torch.Tensor]:
    """The solution by a step for each timestep."""
    return {schedule: solved(schedule, "unipc", None) for schedule in ("linear", "cosine")}


def test_solvers_of_a_full_chain_agree(truth):
    for sampler in ("dpmpp_2m", "heun"):
        assert apart(solved("linear", sampler, None), truth["linear"]) < 2e-4
    assert 1e-3 < apart(solved("linear", "ddim", None), truth["linear"]) < 3e-3  # of first order: near, and no nearer


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_evenly_in_log_snr_the_error_of_a_solver_falls_with_the_square_of_the_steps(truth, schedule):
    def errors(sampler):
        return [apart(solved(schedule, sampler, space_timesteps(T, f"logsnr{steps}", schedule)), truth[schedule])
                for steps in (10, 20, 40)]
    first_order = errors("ddim")
    assert all(1.4 < one / half < 2.6 for one, half in zip(first_order, first_order[1:], strict=False))
    for sampler in ("dpmpp_2m", "unipc", "heun"):
        found = errors(sampler)
        assert all(one / half > 2.7 for one, half in zip(found, found[1:], strict=False)), (sampler, found)
        assert all(one < other for one, other in zip(found[1:], first_order[1:], strict=True)), sampler


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "unipc"])
def test_over_even_timesteps_a_last_step_of_second_order_is_worse_than_ddim_and_one_of_first_order_is_better(sampler):
    """All go to the noise level of step 0. The last of ten even timesteps leads over half of all log-SNR."""
    level = alphas_cumprod_of(betas_of("linear", T))[0]
    even = space_timesteps(T, "10", "linear")
    fine = solved("linear", "unipc", list(range(1, T)), end=level)
    by_ddim, first_order = (apart(solved("linear", name, even[1:], end=level), fine) for name in ("ddim", sampler))
    diffusion = GaussianDiffusion(betas_of("linear", T), predict="x_start", timesteps=even)
    steps = sampler_function(sampler)(Denoiser(diffusion, knowing("linear"), clip_denoised=False), {"x": X_T}, no_noise)
    second_order = apart([step.x for step in steps][-2], fine)
    assert second_order > 1.5 * by_ddim and first_order < by_ddim


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "unipc"])
def test_a_cosine_chain_that_starts_at_its_last_timestep_wastes_its_steps(truth, sampler):
    lambdas = half_log_snr(alphas_cumprod_of(betas_of("cosine", T)))
    assert lambdas[-1] < -9 and lambdas[-2] < -6
    grid = np.linspace(lambdas[-1], lambdas[0], 10)
    from_the_last = sorted({int(np.abs(lambdas - each).argmin()) for each in grid})
    clipped = space_timesteps(T, "logsnr10", "cosine")
    assert lambdas[clipped[-1]] >= -5.1 > lambdas[clipped[-1] + 1]
    assert apart(solved("cosine", sampler, from_the_last), truth["cosine"]) \
        > 1.5 * apart(solved("cosine", sampler, clipped), truth["cosine"])


@pytest.mark.parametrize("schedule, chain, fits", [
    ("cosine", "20", False), ("cosine", "quad20", False), ("cosine", "logsnr2", False), ("cosine", "logsnr4", False),
    ("linear", "logsnr4", False), ("cosine", "", True), ("cosine", "logsnr5", True), ("cosine", "logsnr10", True),
    ("cosine", "200", True), ("linear", "20", True), ("linear", "1", True)])
def test_heun_is_refused_over_chains_whose_first_step_overshoots(schedule, chain, fits):
    kept = space_timesteps(T, chain, schedule)
    lambdas = lambdas_of(schedule, T)[kept]
    _, _, from_there = two_slopes(GaussianDiffusion(betas_of(schedule, T), timesteps=kept).coefficients)
    assert bool(from_there[-1] <= 1) is fits, "the table and the sampler know one weight of the image at the first step's end"
    assert (SAMPLERS["heun"].unfit(lambdas) is None) is fits
    assert all(SAMPLERS[name].unfit(lambdas) is None for name in SAMPLERS if name != "heun")
