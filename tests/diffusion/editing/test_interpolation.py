"""Spherical interpolation of latents."""

import math

import pytest
import torch

from diffusion.editing.interpolation import slerp


def test_a_quarter_circle():
    east, north = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    points = slerp(east, north, [0, 1 / 3, 0.5, 1])
    angles = torch.tensor([0, math.pi / 6, math.pi / 4, math.pi / 2])
    torch.testing.assert_close(points[:, 0, 0], torch.stack([angles.cos(), angles.sin()], dim=1), atol=1e-7, rtol=0)


def test_both_ends_are_the_latents_and_all_lengths_between_are_alike():
    noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    points = slerp(noise[0], noise[1], torch.linspace(0, 1, 9).tolist())
    assert torch.equal(points[0], noise[0]) and torch.equal(points[-1], noise[1])
    lengths = points.flatten(1).norm(dim=1)
    assert (lengths - math.sqrt(768)).abs().max() < 2, "a straight line would pass at 0.7 of this length"


def test_nearly_equal_latents_are_joined_by_a_straight_line():
    noise = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0))
    points = slerp(noise, noise * (1 + 1e-6), [0, 0.5, 1])
    assert points.isfinite().all() and torch.allclose(points, noise.expand(3, -1, -1, -1), atol=1e-5)


@pytest.mark.parametrize("second, reason", [(-1.0, "opposite"), (0.0, "zeros")])
def test_latents_without_an_arc_between_them(second, reason):
    noise = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=reason):
        slerp(noise, second * noise, [0.5])
