"""Walking the reverse chain. Each sampler is a generator of its steps, so that progress, strips and early stops come free.

No step copies anything from the host to the device: tables and step numbers are there from the start.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

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
    x = x_T
    for step, t in _walk(_downwards(diffusion, first_step), x):
        with torch.no_grad():
            p = diffusion.p_mean_variance(network, x, t, clip_denoised=clip_denoised, denoised_fn=denoised_fn,
                                          model_kwargs=model_kwargs)
            x = p.mean + torch.exp(0.5 * p.log_variance) * randn(x) if step else p.mean
        yield Step(step, x, p.pred_xstart)


def ddim(diffusion: GaussianDiffusion, network: Network, x_T: Tensor, randn: Randn, *, eta: float = 0.0,
         first_step: int | None = None, clip_denoised: bool = True,
         denoised_fn: Callable[[Tensor], Tensor] | None = None, model_kwargs: dict | None = None) -> Iterator[Step]:
    """The non-Markovian sampler of Song et al. 2021 (DDIM, eq. 12 and 16): deterministic for eta 0, ancestral-like for 1.

    `randn` is called as `ancestral` calls it, and not at all for eta 0; `first_step` is `ancestral`'s too.
    """
    x = x_T
    for step, t in _walk(_downwards(diffusion, first_step), x):
        with torch.no_grad():
            pred_xstart = diffusion.p_mean_variance(network, x, t, clip_denoised=clip_denoised, denoised_fn=denoised_fn,
                                                    model_kwargs=model_kwargs).pred_xstart
            epsilon = diffusion.epsilon(x, t, pred_xstart)
            alpha_bar, alpha_bar_prev = diffusion.at("alphas_cumprod", t), diffusion.at("alphas_cumprod_prev", t)
            sigma = eta * torch.sqrt((1 - alpha_bar_prev) / (1 - alpha_bar)) * torch.sqrt(1 - alpha_bar / alpha_bar_prev)
            # Rounding can take the direction's variance below 0 where eta is near 1.
            direction = torch.sqrt((1 - alpha_bar_prev - sigma ** 2).clamp(min=0)) * epsilon
            x = torch.sqrt(alpha_bar_prev) * pred_xstart + direction
            if eta and step:
                x = x + sigma * randn(x)
        yield Step(step, x, pred_xstart)


def ddim_encode(diffusion: GaussianDiffusion, network: Network, x_start: Tensor, *, clip_denoised: bool = True,
                denoised_fn: Callable[[Tensor], Tensor] | None = None, model_kwargs: dict | None = None) -> Iterator[Step]:
    """DDIM's ODE the other way: from an image [N, C, H, W] in [-1, 1] to its latent (DDIM, section 4.3).

    Ends at the noise level of step K-1, which is where `ddim` starts: its K-1 steps undo each other's, up to the error
    of the discretisation.
    """
    x = x_start
    for step, t in _walk(range(diffusion.num_timesteps - 1), x):
        with torch.no_grad():
            pred_xstart = diffusion.p_mean_variance(network, x, t, clip_denoised=clip_denoised, denoised_fn=denoised_fn,
                                                    model_kwargs=model_kwargs).pred_xstart
            alpha_bar_next = diffusion.at("alphas_cumprod_next", t)
            x = (torch.sqrt(alpha_bar_next) * pred_xstart
                 + torch.sqrt(1 - alpha_bar_next) * diffusion.epsilon(x, t, pred_xstart))
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


def _walk(steps: range, x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(step, t) for each step: the number, and the same for every example as int64 [N] on x's device."""
    numbers = torch.arange(max(steps, default=0) + 1, device=x.device)
    for step in steps:
        yield step, numbers[step].expand(len(x))
