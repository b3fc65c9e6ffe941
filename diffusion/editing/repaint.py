"""Inpainting with a network that was never trained for it: RePaint (Lugmayr et al. 2022)."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from diffusion.samplers.ancestral import ancestral_step
from diffusion.samplers.chain import Randn
from diffusion.samplers.denoiser import At, Denoiser


def repaint_levels(steps: int, jump: int, passes: int) -> Iterator[int]:
    """Yield how many reverse steps are left, at the start and after each move: from `steps` (noise) to 0 (images).

    RePaint, section 4.2: the way down stops at levels 1, 1 + jump, 1 + 2 * jump ..., noises the image by `jump` steps
    and comes down again, until it has been at each stop `passes` times.
    """
    again = {level: passes - 1 for level in range(1, steps - jump + 1, jump)}
    level = steps
    yield level
    while level:
        level -= 1
        yield level
        if again.get(level):
            again[level] -= 1
            level += jump
            yield level


@torch.no_grad()
def repaint(denoise: Denoiser, x: Tensor, known: Tensor, anew: Tensor, randn: Randn, *, jump: int,
            passes: int) -> Iterator[Tensor]:
    """Yield x [N, C, H, W] after each move of `repaint_levels`, from noise `x` to images that are `known` where `anew` is false.

    known   the given images, [N, C, H, W] in [-1, 1]
    anew    bool, of a shape that expands to that of x: where the images are made anew
    """
    diffusion, reverse = denoise.diffusion, ancestral_step(denoise)
    # By level: 0 is the image itself, and level t + 1 is x_t.
    alphas_cumprod = np.append(1.0, diffusion.coefficients.alphas_cumprod)
    numbers = torch.arange(diffusion.num_timesteps, device=x.device).split(1)
    for level, next_level in pairwise(repaint_levels(diffusion.num_timesteps, jump, passes)):
        if next_level > level:
            # q(x_t | x_s) for t > s: DDPM eq. 2, for several steps at once. Known and new pixels are noised alike.
            kept = alphas_cumprod[next_level] / alphas_cumprod[level]
            x = np.sqrt(kept) * x + np.sqrt(1 - kept) * randn(x)
        else:
            noise = randn(x) if next_level else torch.zeros_like(x)
            state, _ = reverse({"x": x}, noise, At(numbers[next_level], next_level))
            kept = alphas_cumprod[next_level]
            at_level = np.sqrt(kept) * known + np.sqrt(1 - kept) * randn(x) if next_level else known
            x = torch.where(anew, state["x"], at_level)  # RePaint, eq. 8
        yield x
