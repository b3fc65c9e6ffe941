"""From an image to the latent that the deterministic DDIM chain turns into that image (Song et al. 2021, section 5.4)."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from diffusion.samplers.denoiser import At, Denoiser, columns


@torch.no_grad()
def encode(denoise: Denoiser, x_start: Tensor, rounds: int) -> Iterator[Tensor]:
    """Yield x at each step 0 .. K-1 of the chain of `denoise`, [N, C, H, W] each; the last one is the latent of `x_start`.

    `ddim` with eta 0 and the same denoiser leads from the latent back to `x_start`. Each of its steps is x_{t-1} = a' x_0 + s' e
    of x_t = a x_0 + s e, where the network sees x_t (DDIM, eq. 12). Solved for x_t, this is a fixed point:

        x_t = (a / a') x_{t-1} + (s - s' a / a') e(x_t)

    which `rounds` evaluations of the network approach, from x_{t-1} on. One round is DDIM's own inversion, which takes e(x_{t-1})
    for e(x_t); more are those of Pan et al. 2023 (accelerated iterative diffusion inversion, section 4.1).
    """
    diffusion = denoise.diffusion
    now, before = diffusion.coefficients.alphas_cumprod, diffusion.coefficients.alphas_cumprod_prev
    a, s = np.sqrt(now), np.sqrt(1 - now)
    from_before = np.sqrt(now / before)
    from_noise = s - np.sqrt(1 - before) * from_before
    # e = (x_t - a x_0) / s, for the x_0 that the network predicts.
    coefficients = columns(diffusion.device, from_before, from_noise / s, -from_noise * a / s)
    x = x_start
    for step, number in enumerate(torch.arange(diffusion.num_timesteps, device=x_start.device).split(1)):
        earlier, (from_earlier, from_x, from_xstart) = x, coefficients(number)
        for _ in range(rounds):
            pred_xstart = denoise.guided(x, At(number, step))
            x = torch.mul(earlier, from_earlier).addcmul_(x, from_x).addcmul_(pred_xstart, from_xstart)
        yield x
