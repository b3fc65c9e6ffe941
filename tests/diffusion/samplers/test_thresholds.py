"""Dynamic thresholding: each predicted image is clipped to a quantile of its own, and divided by that."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.gaussian import GaussianDiffusion
from diffusion.samplers.denoiser import At, Denoiser
from diffusion.samplers.thresholds import dynamically_clipped
from diffusion.schedules import betas_of


@given(ratio=st.sampled_from([0.001, 0.25, 0.5, 0.9, 0.99, 0.995, 0.999, 1.0]), size=st.integers(1, 9), seed=st.integers(0, 99),
       scale=st.sampled_from([0.3, 1.0, 4.0]))
@settings(max_examples=80, deadline=None)
def test_the_threshold_is_the_quantile_of_one_image_by_linear_interpolation(ratio, size, seed, scale):
    images = scale * torch.randn(3, 2, size, size, generator=torch.Generator().manual_seed(seed))
    found = dynamically_clipped(images, None, ratio)
    for image, ours in zip(images.double().numpy(), found, strict=True):
        s = max(1.0, np.quantile(np.abs(image), ratio))
        np.testing.assert_allclose(ours, np.clip(image, -s, s) / s, rtol=1e-5, atol=1e-6)


def test_an_image_within_bounds_stays_what_it_is_whatever_its_neighbours_are():
    images = torch.stack([torch.linspace(-1, 1, 48).view(3, 4, 4), torch.linspace(-9, 9, 48).view(3, 4, 4)])
    given_images = images.clone()
    found = dynamically_clipped(images, None, 0.9)
    assert torch.equal(found[0], images[0]) and found[1].abs().max() == 1 and torch.equal(images, given_images)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("of_variance", [False, True])
def test_no_infinity_hides_behind_the_threshold(value, of_variance):
    image, v = torch.full((1, 1, 20, 20), 0.5), torch.zeros(1, 1, 20, 20)
    (v if of_variance else image)[0, 0, 3, 4] = value
    assert not dynamically_clipped(image, v, 0.995)[0, 0, 3, 4].isfinite()


def test_the_denoiser_takes_false_true_and_dynamic():
    diffusion = GaussianDiffusion(betas_of("linear", 30), predict="x_start")
    image = torch.linspace(-3, 2, 48).view(1, 3, 4, 4)
    at = At(torch.tensor([5]), 5)

    def predicted(**options):
        return Denoiser(diffusion, lambda x, t: image, **options)(torch.zeros_like(image), at)[0]
    assert torch.equal(predicted(clip_denoised=False), image) and torch.equal(predicted(), image.clamp(-1, 1))
    dynamic = predicted(clip_denoised="dynamic", dynamic_thresholding_ratio=0.5)
    assert torch.equal(dynamic, dynamically_clipped(image, None, 0.5)) and not torch.equal(dynamic, image.clamp(-1, 1))
