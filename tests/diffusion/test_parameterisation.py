import numpy as np
import pytest
import torch

from diffusion.coefficients import Coefficients
from diffusion.gaussian import GaussianDiffusion
from diffusion.parameterisation import PARAMETERISATIONS, VARIANCES, Pair, Parameterisation
from diffusion.samplers.ancestral import ancestral
from diffusion.samplers.chain import final
from diffusion.samplers.denoiser import Denoiser
from diffusion.schedules import SCHEDULES, betas_of

# The score, up to its sign: noise / sqrt(1 - alpha_bar).
SCORE = Parameterisation(x_start=lambda c: Pair(1 / np.sqrt(c.alphas_cumprod),
                                                -(1 - c.alphas_cumprod) / np.sqrt(c.alphas_cumprod)),
                         target=lambda c: Pair(np.zeros_like(c.betas), 1 / np.sqrt(1 - c.alphas_cumprod)))


@pytest.mark.parametrize("name", [*PARAMETERISATIONS, "score"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_output_that_training_asks_for_gives_back_the_image(monkeypatch, name, schedule):
    monkeypatch.setitem(PARAMETERISATIONS, "score", SCORE)
    parameterisation, c = PARAMETERISATIONS[name], Coefficients.of(betas_of(schedule, 100))
    x_start, noise = np.random.default_rng(0).normal(size=(2, 50, 1))
    x_t = np.sqrt(c.alphas_cumprod) * x_start + np.sqrt(1 - c.alphas_cumprod) * noise
    (a, b), (d, e) = parameterisation.target(c), parameterisation.x_start(c)
    np.testing.assert_allclose(d * x_t + e * (a * x_start + b * noise), np.broadcast_to(x_start, (50, 100)), rtol=1e-6, atol=1e-6)


def test_one_entry_is_all_that_a_new_parameterisation_takes(monkeypatch, golden):
    """A network that knows the truth draws the same samples with each parameterisation."""
    monkeypatch.setitem(PARAMETERISATIONS, "score", SCORE)
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    x_T, *draws = torch.randn(30, *image.shape, generator=torch.Generator().manual_seed(1))

    def sample(predict: str) -> torch.Tensor:
        diffusion, noise = GaussianDiffusion(betas_of("linear", 30), predict=predict), iter(draws)
        def truth(x_t, time):
            t = time.long()
            return diffusion.target(image, diffusion.epsilon(x_t, t, image), t)
        return final(ancestral(Denoiser(diffusion, truth), {"x": x_T}, lambda x: next(noise)))
    for predict in ("score", "v"):
        torch.testing.assert_close(sample(predict), sample("epsilon"), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(sample(predict), image, rtol=1e-4, atol=1e-4)


def test_combinations_that_need_no_arithmetic_are_known():
    c = Coefficients.of(betas_of("linear", 100))
    assert PARAMETERISATIONS["x_start"].x_start(c).only_second and PARAMETERISATIONS["epsilon"].target(c).only_second
    assert PARAMETERISATIONS["x_start"].target(c).only_first and not PARAMETERISATIONS["x_start"].target(c).only_second
    assert not PARAMETERISATIONS["epsilon"].x_start(c).only_second


@pytest.mark.parametrize("options, message", [
    ({"predict": "noise"}, "unknown predict 'noise'; there are epsilon, x_start, x_prev and v"),
    ({"variance": "large"}, "unknown variance 'large'; there are fixed_small, fixed_large and learned_range")])
def test_an_unknown_name_is_refused_with_the_known_ones(options, message):
    with pytest.raises(ValueError, match=message):
        GaussianDiffusion(betas_of("linear", 100), **options)


def test_a_fixed_variance_ignores_v():
    c = Coefficients.of(betas_of("linear", 100))
    for variance in VARIANCES.values():
        assert variance.learned == bool(variance.log_variance(c).b.any())
