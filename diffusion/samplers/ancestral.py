"""The ancestral sampler of Ho et al. 2020 (DDPM): draws from p step by step."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from diffusion.samplers.chain import Advance, Randn, State, Step, walk
from diffusion.samplers.denoiser import At, Denoiser, columns


def ancestral(denoise: Denoiser, state: State, randn: Randn, *, first_step: int | None = None,
              cuda_graph: bool = False) -> Iterator[Step]:
    """Draw x_{t-1} ~ p(x_{t-1} | x_t) for t = K-1 .. 0 (DDPM, algorithm 2). Arguments: see `chain.SamplerFunction`.

    A guide moves the mean by its gradient times the variance (Dhariwal & Nichol 2021, algorithm 1); pred_xstart stays.
    """
    return walk(denoise, ancestral_step(denoise), {"x": state["x"]}, randn, first_step, cuda_graph)


def ancestral_step(denoise: Denoiser) -> Advance:
    """One step of `ancestral`, for other walks along the same chain."""
    diffusion = denoise.diffusion
    c, learned, output_is_mean = diffusion.coefficients, diffusion.variance.learned, diffusion.parameterisation.output_is_mean
    offset, slope = diffusion.variance.log_variance(c)
    noisy = np.arange(diffusion.num_timesteps) > 0  # step 0 adds no noise: the logarithm of its deviation is -inf for any v
    half_offset, half_slope = np.where(noisy, offset / 2, -np.inf), np.where(noisy, slope / 2, 0)
    coefficients = columns(diffusion.device, c.posterior_mean_coef2, c.posterior_mean_coef1,  # DDPM eq. 7
                           *([half_offset, half_slope] if learned else [np.exp(half_offset)]))
    log_variance = columns(diffusion.device, offset, slope)  # step 0 too: the guide's gradient meets this variance there

    def advance(state: State, noise: Tensor, at: At) -> tuple[State, Tensor]:
        x = state["x"]
        pred_xstart, output, v = denoise(x, at)
        from_x, from_xstart, *of_noise = coefficients(at.number)
        deviation = of_noise[0] if v is None else torch.addcmul(of_noise[0], v, of_noise[1]).exp_()
        gradient = denoise.gradient(x, at)
        if output_is_mean:
            x = torch.addcmul(output, noise, deviation)
        else:
            x = torch.mul(x, from_x).addcmul_(pred_xstart, from_xstart).addcmul_(noise, deviation)
        if gradient is not None:
            low, per_v = log_variance(at.number)
            x.addcmul_(gradient, (low if v is None else torch.addcmul(low, v, per_v)).exp())
        return {"x": x}, pred_xstart
    return advance
