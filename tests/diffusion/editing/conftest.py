"""The exact denoiser of Gaussian data: what a perfectly trained network would answer."""

import pytest
import torch

from diffusion.gaussian import GaussianDiffusion
from diffusion.samplers.denoiser import Denoiser
from diffusion.schedules import alphas_cumprod_of, betas_of

STEPS = 1000


@pytest.fixture
def gaussian():
    """gaussian(mean [D], covariance [D, D], timesteps, schedule, guide) -> Denoiser of images [N, 1, 1, D]."""
    def make(mean, covariance, timesteps, schedule: str = "cosine", guide=None) -> Denoiser:
        betas = betas_of(schedule, STEPS)
        alphas_cumprod = torch.from_numpy(alphas_cumprod_of(betas))
        mean, covariance = torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(covariance, dtype=torch.float64)

        def network(x, t):
            """E[noise given x_t], which is linear in x_t."""
            share = alphas_cumprod[t[0].long()]
            inverse = torch.linalg.inv(share * covariance + (1 - share) * torch.eye(len(mean), dtype=torch.float64))
            return ((1 - share).sqrt() * (x.double() - share.sqrt() * mean) @ inverse).float()
        diffusion = GaussianDiffusion(betas, predict="epsilon", variance="fixed_small", timesteps=list(timesteps))
        return Denoiser(diffusion, network, clip_denoised=False, guide=guide)
    return make
