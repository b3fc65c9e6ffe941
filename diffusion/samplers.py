"""Walking the reverse chain. Each sampler is a generator of its steps, so that progress, strips and early stops come free.

No step copies anything from the host to the device, and none waits for it: see `denoiser`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffusion.denoiser import Denoiser, deviation
from diffusion.gaussian import GaussianDiffusion, Network

Randn = Callable[[Tensor], Tensor]
"""randn(x): standard normal noise with the shape, dtype and device of x."""


@dataclass(frozen=True)
class Step:
    """The chain after the network saw step `t`: x at the next step of the walk, and the x_start predicted on the way."""

    t: int
    x: Tensor
    pred_xstart: Tensor


def ancestral(diffusion: GaussianDiffusion, network: Network, x_T: Tensor, randn: Randn, *, first_step: int | None = None,
              clip_denoised: bool = True, denoised_fn: Callable[[Tensor], Tensor] | None = None,
              model_kwargs: dict | None = None) -> Iterator[Step]:
    """Draw x_{t-1} ~ p(x_{t-1} | x_t) for t = K-1 .. 0 (Ho et al. 2020, algorithm 2). The last step adds no noise.

    x_T: [N, C, H, W] standard normal. `randn` is called once for each step but the last, in order.
    `first_step`: begin there instead of at K-1, with the x of that step as x_T: what Step s gave goes on at s - 1.
    """
    denoise = Denoiser(diffusion, network, clip_denoised=clip_denoised, denoised_fn=denoised_fn, model_kwargs=model_kwargs)
    # DDPM eq. 7: the mean of q(x_{t-1} | x_t, x_start)
    from_x, from_xstart = (diffusion.coefficients.posterior_mean_coef2.tolist(),
                           diffusion.coefficients.posterior_mean_coef1.tolist())
    scale, slope = deviation(diffusion)
    x = x_T
    for step in _downwards(diffusion, first_step):
        with torch.no_grad():
            pred_xstart, output, v = denoise(x, step)
            if diffusion.predict == "x_prev":
                x = output.clone()
            else:
                x = torch.mul(x, from_x[step]).add_(pred_xstart, alpha=from_xstart[step])
            if step and slope is None:
                x.add_(randn(x), alpha=scale[step])
            elif step:
                x.addcmul_(torch.mul(v, slope[step]).exp_(), randn(x), value=scale[step])
        yield Step(step, x, pred_xstart)


def ddim(diffusion: GaussianDiffusion, network: Network, x_T: Tensor, randn: Randn, *, eta: float = 0.0,
         first_step: int | None = None, clip_denoised: bool = True,
         denoised_fn: Callable[[Tensor], Tensor] | None = None, model_kwargs: dict | None = None) -> Iterator[Step]:
    """The non-Markovian sampler of Song et al. 2021 (DDIM, eq. 12 and 16): deterministic for eta 0, ancestral-like for 1.

    `randn` is called as `ancestral` calls it, and not at all for eta 0; `first_step` is `ancestral`'s too.
    """
    denoise = Denoiser(diffusion, network, clip_denoised=clip_denoised, denoised_fn=denoised_fn, model_kwargs=model_kwargs)
    c = diffusion.coefficients
    sigma = eta * np.sqrt((1 - c.alphas_cumprod_prev) / (1 - c.alphas_cumprod) * (1 - c.alphas_cumprod / c.alphas_cumprod_prev))
    from_x, from_xstart = _towards(diffusion, c.alphas_cumprod_prev, sigma)
    sigma, x = sigma.tolist(), x_T
    for step in _downwards(diffusion, first_step):
        with torch.no_grad():
            pred_xstart = denoise(x, step)[0]
            x = torch.mul(x, from_x[step]).add_(pred_xstart, alpha=from_xstart[step])
            if eta and step:
                x.add_(randn(x), alpha=sigma[step])
        yield Step(step, x, pred_xstart)


def ddim_encode(diffusion: GaussianDiffusion, network: Network, x_start: Tensor, *, clip_denoised: bool = True,
                denoised_fn: Callable[[Tensor], Tensor] | None = None, model_kwargs: dict | None = None) -> Iterator[Step]:
    """DDIM's ODE the other way: from an image [N, C, H, W] in [-1, 1] to its latent (DDIM, section 4.3).

    Ends at the noise level of step K-1, which is where `ddim` starts: its K-1 steps undo each other's, up to the error
    of the discretisation.
    """
    denoise = Denoiser(diffusion, network, clip_denoised=clip_denoised, denoised_fn=denoised_fn, model_kwargs=model_kwargs)
    from_x, from_xstart = _towards(diffusion, diffusion.coefficients.alphas_cumprod_next)
    x = x_start
    for step in range(diffusion.num_timesteps - 1):
        with torch.no_grad():
            pred_xstart = denoise(x, step)[0]
            x = torch.mul(x, from_x[step]).add_(pred_xstart, alpha=from_xstart[step])
        yield Step(step, x, pred_xstart)


def final(steps: Iterator[Step]) -> Tensor:
    """The x at which a walk ends, [N, C, H, W]."""
    step = None
    for step in steps:
        pass
    if step is None:
        raise ValueError("a walk without steps has no end")
    return step.x


def _downwards(diffusion: GaussianDiffusion, first_step: int | None) -> range:
    return range(diffusion.num_timesteps - 1 if first_step is None else first_step, -1, -1)


def _towards(diffusion: GaussianDiffusion, alphas_cumprod: np.ndarray, sigma: np.ndarray | float = 0.0) -> tuple[list, list]:
    """(a [K], b [K]): DDIM's mean at the noise level `alphas_cumprod` [K] is a * x_t + b * pred_xstart (DDIM, eq. 12).

    The epsilon between x_t and pred_xstart (DDPM eq. 4) is multiplied out.
    """
    now = diffusion.coefficients.alphas_cumprod
    # Rounding can take what the noise leaves of the variance below 0 where eta is near 1.
    direction = np.sqrt(np.maximum(1 - alphas_cumprod - sigma ** 2, 0)) / np.sqrt(1 - now)
    return direction.tolist(), (np.sqrt(alphas_cumprod) - direction * np.sqrt(now)).tolist()
