"""Chains for tests of solvers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffusion.gaussian import GaussianDiffusion


def no_noise(x: torch.Tensor) -> torch.Tensor:
    """A `randn` that must not be called."""
    return pytest.fail("a solver draws no noise")


def ending_at(diffusion: GaussianDiffusion, alpha_bar: float) -> GaussianDiffusion:
    """`diffusion`, whose last step leads to the noise level `alpha_bar` instead of to the image without noise."""
    c = diffusion.coefficients
    diffusion.coefficients = replace(c, alphas_cumprod_prev=np.append(alpha_bar, c.alphas_cumprod_prev[1:]))
    return diffusion
