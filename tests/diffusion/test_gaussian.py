import numpy as np
import pytest
import torch

from diffusion.coefficients import Coefficients
from diffusion.gaussian import GaussianDiffusion
from diffusion.respacing import space_timesteps
from diffusion.schedules import betas_of

close = pytest.approx


@pytest.mark.parametrize("kind, variance", [("learned", "learned_range"), ("fixedlarge", "fixed_large")])
def test_p_mean_variance_agrees_with_golden(golden, kind, variance):
    expected = golden.tensors("p_mean_variance_standin")
    diffusion = GaussianDiffusion(betas_of("cosine", 4000), variance=variance, rescale_timesteps=True)
    for step in (0, 1, 2000, 3999):
        t = torch.full((6,), step)
        p = diffusion.p_mean_variance(golden.standin(kind == "learned"), expected["x_t"], t)
        for name in ("mean", "variance", "log_variance", "pred_xstart"):
            torch.testing.assert_close(getattr(p, name), expected[f"{kind}_{step}_{name}"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_every_parameterisation_of_the_same_truth_gives_the_same_mean(schedule):
    torch.manual_seed(0)
    x_start, noise, t = torch.rand(4, 3, 8, 8) * 2 - 1, torch.randn(4, 3, 8, 8), torch.tensor([1, 30, 60, 99])
    truth = GaussianDiffusion(betas_of(schedule, 100))
    x_t = truth.q_sample(x_start, t, noise)
    expected = truth.q_posterior(x_start, x_t, t)[0]
    v = truth.q_sample(noise, t, -x_start)  # Salimans & Ho 2022: sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_start
    for predict, output in {"epsilon": noise, "x_start": x_start, "x_prev": expected, "v": v}.items():
        diffusion = GaussianDiffusion(betas_of(schedule, 100), predict=predict)
        p = diffusion.p_mean_variance(lambda x, time, output=output: output, x_t, t, clip_denoised=False)
        torch.testing.assert_close(p.mean, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(p.pred_xstart, x_start, rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(diffusion.epsilon(x_t, t, x_start), noise, rtol=1e-3, atol=1e-3)


def test_learned_range_interpolates_between_posterior_and_beta():
    diffusion = GaussianDiffusion(betas_of("linear", 100), variance="learned_range")
    x, t = torch.zeros(1, 1, 2, 2), torch.tensor([50])
    coefficients = diffusion.coefficients
    for v, bound in ((-1.0, coefficients.posterior_log_variance_clipped[50]), (1.0, np.log(coefficients.betas[50]))):
        p = diffusion.prediction(x, x + v, x, t)
        assert p.log_variance.flatten().tolist() == close([bound] * 4, rel=1e-6)


def test_fixed_small_is_the_posterior_variance():
    diffusion = GaussianDiffusion(betas_of("linear", 100), variance="fixed_small")
    x = torch.zeros(1, 1, 2, 2)
    p = diffusion.prediction(x, None, x, torch.tensor([7]))
    assert p.variance[0, 0, 0, 0].item() == close(diffusion.coefficients.posterior_variance[7], rel=1e-6)
    assert p.log_variance.exp()[0, 0, 0, 0].item() == close(p.variance[0, 0, 0, 0].item(), rel=1e-5)


def test_q_reaches_the_mean_and_variance_of_equation_4():
    torch.manual_seed(0)
    diffusion = GaussianDiffusion(betas_of("cosine", 100))
    alpha_bar = diffusion.coefficients.alphas_cumprod[40]
    x_t = diffusion.q_sample(torch.full((2000, 1, 4, 4), 0.5), torch.full((2000,), 40), torch.randn(2000, 1, 4, 4))
    assert x_t.mean().item() == close(0.5 * alpha_bar ** 0.5, abs=0.02)
    assert x_t.var().item() == close(1 - alpha_bar, rel=0.03)


def test_network_sees_original_times_after_respacing():
    seen = []
    timesteps = space_timesteps(4000, "ddim50", "cosine")
    diffusion = GaussianDiffusion(betas_of("cosine", 4000), timesteps=timesteps, rescale_timesteps=True)
    diffusion.evaluate(lambda x, time: seen.append(time) or x, torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 49]))
    assert seen[0].tolist() == [0.0, 80 * 0.25, 49 * 80 * 0.25]
    raw = GaussianDiffusion(betas_of("cosine", 4000), timesteps=timesteps)
    raw.evaluate(lambda x, time: seen.append(time) or x, torch.zeros(1, 1, 2, 2), torch.tensor([49]))
    assert seen[1].tolist() == [49 * 80.0]


def test_wrong_number_of_output_channels_says_what_is_needed():
    diffusion = GaussianDiffusion(betas_of("cosine", 100), variance="learned_range")
    x = torch.zeros(1, 3, 2, 2)
    with pytest.raises(ValueError, match="needs 6 output channels for 3 image channels; the network gives 3"):
        diffusion.split(x, 3)


def test_a_chain_of_one_step_has_finite_tables():
    coefficients = Coefficients.of(np.array([0.5]))
    assert np.isfinite(coefficients.posterior_log_variance_clipped).all()
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        Coefficients.of(np.array([0.1, 1.5]))
