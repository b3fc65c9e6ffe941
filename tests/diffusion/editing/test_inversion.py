"""Encoding by DDIM: with Gaussian data and the exact denoiser, latents are known in closed form."""

import pytest
import torch

from diffusion.editing.inversion import encode
from diffusion.samplers.chain import final
from diffusion.samplers.ddim import ddim

MEAN, DEVIATION = torch.tensor([0.3, -0.5, 0.0]), torch.tensor([0.2, 0.5, 1.5])
IMAGES = torch.randn(8, 1, 1, 3, generator=torch.Generator().manual_seed(0)) * DEVIATION + MEAN


def latent(denoise, rounds: int) -> torch.Tensor:
    *_, last = encode(denoise, IMAGES, rounds)
    return last


def decoded(denoise, x: torch.Tensor) -> torch.Tensor:
    return final(ddim(denoise, {"x": x}, torch.randn_like))


@pytest.mark.parametrize("schedule, last", [("linear", 999), ("cosine", 960)])
def test_the_latent_is_that_of_the_ordinary_differential_equation(gaussian, schedule, last):
    """Each pixel is scaled from the deviation of the data to that of x_t (Song et al. 2021, eq. 14, solved for Gaussian data)."""
    denoise = gaussian(MEAN, torch.diag(DEVIATION ** 2), range(last + 1), schedule)
    share = denoise.diffusion.coefficients.alphas_cumprod[-1]
    deviation = (share * DEVIATION ** 2 + 1 - share).sqrt()
    exact = share ** 0.5 * MEAN + (IMAGES - MEAN) * deviation / DEVIATION
    assert (latent(denoise, rounds=3) - exact).abs().max() < 0.05


@pytest.mark.parametrize("step", [1, 20, 40])
def test_encoding_and_decoding_round_trips_on_any_chain(gaussian, step):
    denoise = gaussian(MEAN, torch.diag(DEVIATION ** 2), range(0, 961, step))
    error = (decoded(denoise, latent(denoise, rounds=30)) - IMAGES).abs().max()
    assert error < 1e-4


def test_more_rounds_come_closer_than_the_inversion_of_ddim_itself(gaussian):
    denoise = gaussian(MEAN, torch.diag(DEVIATION ** 2), range(0, 961, 20))
    errors = [(decoded(denoise, latent(denoise, rounds)) - IMAGES).abs().mean() for rounds in (1, 2, 4)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_a_step_is_undone_exactly(gaussian):
    """One step of ddim from the latent of a chain of two steps gives the x after the first step of encoding."""
    denoise = gaussian(MEAN, torch.diag(DEVIATION ** 2), [100, 300])
    first, second = encode(denoise, IMAGES, rounds=40)
    back = next(iter(ddim(denoise, {"x": second}, torch.randn_like)))
    torch.testing.assert_close(back.x, first, atol=1e-5, rtol=0)


def test_the_guide_counts_as_it_does_in_sampling(gaussian):
    def guide(x, t):
        return torch.full_like(x, 0.05)
    unguided, guided = (gaussian(MEAN, torch.diag(DEVIATION ** 2), range(0, 961, 40), guide=each) for each in (None, guide))
    shifted = latent(guided, rounds=30)
    assert (shifted - latent(unguided, rounds=30)).abs().max() > 0.01
    assert (decoded(guided, shifted) - IMAGES).abs().max() < 1e-4
