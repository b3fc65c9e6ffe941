"""Walking the reverse chain. Each sampler is a generator of its steps, so that progress, strips and early stops come free.

No step copies anything from the host to the device, and none waits for it: see `denoiser`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffusion.gaussian import GaussianDiffusion, Network
from diffusion.samplers.denoiser import Denoiser, columns, deviation

Randn = Callable[[Tensor], Tensor]
"""randn(x): standard normal noise with the shape, dtype and device of x."""
Advance = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""advance(x, noise, number int64 [1]) -> (x at the next step of the walk, the x_start predicted on the way)."""


@dataclass(frozen=True)
class Step:
    """The chain after the network saw step `t`: x at the next step of the walk, and the x_start predicted on the way."""

    t: int
    x: Tensor
    pred_xstart: Tensor


def ancestral(diffusion: GaussianDiffusion, network: Network, x_T: Tensor, randn: Randn, *, first_step: int | None = None,
              cuda_graph: bool = False, clip_denoised: bool = True, denoised_fn: Callable[[Tensor], Tensor] | None = None,
              model_kwargs: dict | None = None) -> Iterator[Step]:
    """Draw x_{t-1} ~ p(x_{t-1} | x_t) for t = K-1 .. 0 (Ho et al. 2020, algorithm 2). The last step adds no noise.

    x_T: [N, C, H, W] standard normal. `randn` is called once for each step but the last, in order.
    `first_step`: begin there instead of at K-1, with the x of that step as x_T: what Step s gave goes on at s - 1.
    `cuda_graph`: record a whole step, network included, and replay it; on a GPU only, and only with a network that waits for
    nothing. The numbers are the same; a step costs one launch instead of some hundreds.
    """
    denoise = Denoiser(diffusion, network, clip_denoised=clip_denoised, denoised_fn=denoised_fn, model_kwargs=model_kwargs)
    offset, slope = deviation(diffusion)
    # DDPM eq. 7: the mean of q(x_{t-1} | x_t, x_start)
    mean = diffusion.coefficients.posterior_mean_coef2, diffusion.coefficients.posterior_mean_coef1
    coefficients = columns(diffusion.device, *mean, *([np.exp(offset)] if slope is None else [offset, slope]))

    def advance(x: Tensor, noise: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        pred_xstart, output, v = denoise(x, number)
        from_x, from_xstart, *of_noise = coefficients(number)
        spread = of_noise[0] if v is None else torch.addcmul(of_noise[0], v, of_noise[1]).exp_()
        if diffusion.predict == "x_prev":
            return torch.addcmul(output, noise, spread), pred_xstart
        return torch.mul(x, from_x).addcmul_(pred_xstart, from_xstart).addcmul_(noise, spread), pred_xstart

    return _walk(advance, x_T, randn, _downwards(diffusion, first_step), cuda_graph)


def ddim(diffusion: GaussianDiffusion, network: Network, x_T: Tensor, randn: Randn, *, eta: float = 0.0,
         first_step: int | None = None, cuda_graph: bool = False, clip_denoised: bool = True,
         denoised_fn: Callable[[Tensor], Tensor] | None = None, model_kwargs: dict | None = None) -> Iterator[Step]:
    """The non-Markovian sampler of Song et al. 2021 (DDIM, eq. 12 and 16): deterministic for eta 0, ancestral-like for 1.

    `randn` is called as `ancestral` calls it, and not at all for eta 0; `first_step` and `cuda_graph` are `ancestral`'s too.
    """
    denoise = Denoiser(diffusion, network, clip_denoised=clip_denoised, denoised_fn=denoised_fn, model_kwargs=model_kwargs)
    c = diffusion.coefficients
    sigma = eta * np.sqrt((1 - c.alphas_cumprod_prev) / (1 - c.alphas_cumprod) * (1 - c.alphas_cumprod / c.alphas_cumprod_prev))
    coefficients = columns(diffusion.device, *_towards(diffusion, c.alphas_cumprod_prev, sigma), sigma)  # sigma is 0 at step 0

    def advance(x: Tensor, noise: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        pred_xstart = denoise(x, number)[0]
        from_x, from_xstart, spread = coefficients(number)
        x = torch.mul(x, from_x).addcmul_(pred_xstart, from_xstart)
        return x.addcmul_(noise, spread) if eta else x, pred_xstart

    return _walk(advance, x_T, randn if eta else None, _downwards(diffusion, first_step), cuda_graph)


def ddim_encode(diffusion: GaussianDiffusion, network: Network, x_start: Tensor, *, clip_denoised: bool = True,
                denoised_fn: Callable[[Tensor], Tensor] | None = None, model_kwargs: dict | None = None) -> Iterator[Step]:
    """DDIM's ODE the other way: from an image [N, C, H, W] in [-1, 1] to its latent (DDIM, section 4.3).

    Ends at the noise level of step K-1, which is where `ddim` starts: its K-1 steps undo each other's, up to the error
    of the discretisation.
    """
    denoise = Denoiser(diffusion, network, clip_denoised=clip_denoised, denoised_fn=denoised_fn, model_kwargs=model_kwargs)
    coefficients = columns(diffusion.device, *_towards(diffusion, diffusion.coefficients.alphas_cumprod_next))

    def advance(x: Tensor, noise: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        pred_xstart = denoise(x, number)[0]
        from_x, from_xstart = coefficients(number)
        return torch.mul(x, from_x).addcmul_(pred_xstart, from_xstart), pred_xstart

    return _walk(advance, x_start, None, range(diffusion.num_timesteps - 1))


def final(steps: Iterator[Step]) -> Tensor:
    """The x at which a walk ends, [N, C, H, W]."""
    step = None
    for step in steps:
        pass
    if step is None:
        raise ValueError("a walk without steps has no end")
    return step.x


def _walk(advance: Advance, x: Tensor, randn: Randn | None, steps: range, cuda_graph: bool = False) -> Iterator[Step]:
    """The steps in their order; `randn` None: none of them draws noise."""
    numbers = torch.tensor(steps, dtype=torch.int64, device=x.device)
    noise = torch.zeros_like(x)
    with torch.no_grad():
        if cuda_graph:
            advance = _recorded(advance, x, noise, numbers[:1])
    for place, step in enumerate(steps):
        with torch.no_grad():
            if step and randn is not None:
                noise = randn(x)
            x, pred_xstart = advance(x, noise, numbers[place:place + 1])
        yield Step(step, x, pred_xstart)


def _recorded(advance: Advance, *arguments: Tensor) -> Advance:
    """`advance` as a CUDA graph for arguments of these shapes."""
    # A replay reads where it was recorded and writes where the last one did: own memory, and copies for the caller.
    replay = torch.cuda.make_graphed_callables(advance, tuple(argument.clone() for argument in arguments))
    return lambda *arguments: tuple(result.clone() for result in replay(*arguments))


def _downwards(diffusion: GaussianDiffusion, first_step: int | None) -> range:
    return range(diffusion.num_timesteps - 1 if first_step is None else first_step, -1, -1)


def _towards(diffusion: GaussianDiffusion, alphas_cumprod: np.ndarray,
             sigma: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(a [K], b [K]): DDIM's mean at the noise level `alphas_cumprod` [K] is a * x_t + b * pred_xstart (DDIM, eq. 12).

    The epsilon between x_t and pred_xstart (DDPM eq. 4) is multiplied out.
    """
    now = diffusion.coefficients.alphas_cumprod
    # Rounding can take what the noise leaves of the variance below 0 where eta is near 1.
    direction = np.sqrt(np.maximum(1 - alphas_cumprod - sigma ** 2, 0)) / np.sqrt(1 - now)
    return direction, np.sqrt(alphas_cumprod) - direction * np.sqrt(now)
