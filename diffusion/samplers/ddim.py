"""The sampler of Song et al. 2021 (DDIM)."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from diffusion.samplers.chain import Randn, State, Step, walk
from diffusion.samplers.denoiser import At, Denoiser, columns


def ddim(denoise: Denoiser, state: State, randn: Randn, *, eta: float = 0.0, first_step: int | None = None,
         cuda_graph: bool = False) -> Iterator[Step]:
    """The non-Markovian chain of DDIM, eq. 12 and 16: deterministic for eta 0, with the posterior's variance for eta 1.

    With eta 0 `randn` is never called. Other arguments: see `chain.SamplerFunction`.
    """
    c = denoise.diffusion.coefficients
    now, before = c.alphas_cumprod, c.alphas_cumprod_prev
    sigma = eta * np.sqrt((1 - before) / (1 - now) * (1 - now / before))  # eq. 16; 0 at step 0
    # Eq. 12 without its noise is sqrt(before) * pred_xstart + towards_x_t * epsilon, and epsilon is the noise between x_t and
    # pred_xstart (DDPM eq. 4). Rounding can make the share of epsilon negative where eta is near 1.
    towards_x_t = np.sqrt(np.maximum(1 - before - sigma ** 2, 0)) / np.sqrt(1 - now)
    coefficients = columns(denoise.diffusion.device, towards_x_t, np.sqrt(before) - towards_x_t * np.sqrt(now), sigma)

    def advance(state: State, noise: Tensor, at: At) -> tuple[State, Tensor]:
        x = state["x"]
        pred_xstart = denoise.guided(x, at)
        from_x, from_xstart, deviation = coefficients(at.number)
        x = torch.mul(x, from_x).addcmul_(pred_xstart, from_xstart)
        return {"x": x.addcmul_(noise, deviation) if eta else x}, pred_xstart

    return walk(denoise, advance, {"x": state["x"]}, randn if eta else None, first_step, cuda_graph)
