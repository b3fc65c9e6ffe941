"""The ancestral sampler of Ho et al. 2020 (DDPM): draws from p step by step."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from diffusion.gaussian import GaussianDiffusion, Network
from diffusion.samplers.chain import Randn, State, Step, walk
from diffusion.samplers.denoiser import Denoiser, columns


def ancestral(diffusion: GaussianDiffusion, network: Network, state: State, randn: Randn, *, first_step: int | None = None,
              cuda_graph: bool = False, clip_denoised: bool = True, model_kwargs: dict | None = None) -> Iterator[Step]:
    """Draw x_{t-1} ~ p(x_{t-1} | x_t) for t = K-1 .. 0 (DDPM, algorithm 2). Arguments: see `chain.SamplerFunction`."""
    denoise = Denoiser(diffusion, network, clip_denoised=clip_denoised, model_kwargs=model_kwargs)
    c, learned, output_is_mean = diffusion.coefficients, diffusion.variance.learned, diffusion.parameterisation.output_is_mean
    offset, slope = diffusion.variance.log_variance(c)
    noisy = np.arange(diffusion.num_timesteps) > 0  # step 0 adds no noise: the logarithm of its deviation is -inf for any v
    offset, slope = np.where(noisy, offset / 2, -np.inf), np.where(noisy, slope / 2, 0)
    coefficients = columns(diffusion.device, c.posterior_mean_coef2, c.posterior_mean_coef1,  # DDPM eq. 7
                           *([offset, slope] if learned else [np.exp(offset)]))

    def advance(state: State, noise: Tensor, number: Tensor) -> tuple[State, Tensor]:
        x = state["x"]
        pred_xstart, output, v = denoise(x, number)
        from_x, from_xstart, *of_noise = coefficients(number)
        deviation = of_noise[0] if v is None else torch.addcmul(of_noise[0], v, of_noise[1]).exp_()
        if output_is_mean:
            return {"x": torch.addcmul(output, noise, deviation)}, pred_xstart
        return {"x": torch.mul(x, from_x).addcmul_(pred_xstart, from_xstart).addcmul_(noise, deviation)}, pred_xstart

    return walk(diffusion, advance, {"x": state["x"]}, randn, first_step, cuda_graph)
