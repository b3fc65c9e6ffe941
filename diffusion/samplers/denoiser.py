"""The network along one reverse chain: all that depends on the step alone is computed before the first step.

`gaussian.p_mean_variance` says the same for any mixture of steps. Here a whole batch stands at one step: coefficients,
multiplied out in float64, and embeddings are tables on the device, looked up by a step number that is on the device too. A step
is few kernels, copies nothing from the host and waits for nothing, and is the same kernels on the same memory at every step:
what a CUDA graph asks for.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from diffusion.gaussian import GaussianDiffusion, Network

AtStep = Callable[[Tensor, Tensor], Tensor]
"""at_step(x_t, number) -> [N, C or 2C, H, W]: the network at step `number` int64 [1] of the chain."""


class Denoiser:
    """denoiser(x_t [N, C, H, W], number int64 [1]) -> (pred_xstart, output, v): as in `GaussianDiffusion.prediction`.

    `output` is the network's image channels, `v` those of the variance or None; pred_xstart is x_t's prediction, through
    `denoised_fn` and clipped where asked. No two of them share memory with x_t. Gradients are not kept.
    """

    @torch.no_grad()
    def __init__(self, diffusion: GaussianDiffusion, network: Network, *, clip_denoised: bool = True,
                 denoised_fn: Callable[[Tensor], Tensor] | None = None, model_kwargs: dict | None = None):
        self.diffusion, self.clip_denoised, self.denoised_fn = diffusion, clip_denoised, denoised_fn
        self.at_step = _at_step(network, diffusion.network_times, model_kwargs or {})
        c = diffusion.coefficients
        # pred_xstart = from_x * x_t + from_output * output
        self.coefficients = None if diffusion.predict == "x_start" else columns(diffusion.device, *{
            "epsilon": (np.sqrt(1 / c.alphas_cumprod), -np.sqrt(1 / c.alphas_cumprod - 1)),  # DDPM eq. 4
            "x_prev": (-c.posterior_mean_coef2 / c.posterior_mean_coef1, 1 / c.posterior_mean_coef1)}[diffusion.predict])  # eq. 7

    @torch.no_grad()
    def __call__(self, x_t: Tensor, number: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        output, v = self.diffusion.split(self.at_step(x_t, number).float(), x_t.shape[1])
        if self.coefficients is None:
            pred_xstart = output
        else:
            from_x, from_output = self.coefficients(number)
            pred_xstart = torch.mul(x_t, from_x).addcmul_(output, from_output)
        if self.denoised_fn is not None:
            pred_xstart = self.denoised_fn(pred_xstart)
        return pred_xstart.clamp(-1, 1) if self.clip_denoised else pred_xstart, output, v


def columns(device: torch.device, *values: np.ndarray) -> Callable[[Tensor], Sequence[Tensor]]:
    """at(number int64 [1]) -> of each of the `values` [K] its entry there, float32 [1]: one lookup for all."""
    table = torch.from_numpy(np.stack(values, axis=1).astype(np.float32)).to(device)
    return lambda number: table.index_select(0, number).unbind(1)


def _at_step(network: Network, times: Tensor, model_kwargs: dict) -> AtStep:
    """`network` with its time looked up; where it can embed a whole chain beforehand (`UNet.along`), with that."""
    if hasattr(network, "along"):
        return network.along(times, **model_kwargs)
    return lambda x, number: network(x, times.index_select(0, number).expand(len(x)), **model_kwargs)


def deviation(diffusion: GaussianDiffusion) -> tuple[np.ndarray, np.ndarray | None]:
    """(offset [K], slope [K]): the log of p's standard deviation at step t is offset[t] + slope[t] * v.

    slope is None where the variance is fixed: then it is offset[t]. At step 0, which adds no noise, they are -inf and 0.
    """
    c = diffusion.coefficients
    posterior, noisy = c.posterior_log_variance_clipped, np.arange(diffusion.num_timesteps) > 0
    if diffusion.variance == "learned":
        offset, slope = np.zeros_like(posterior), np.full_like(posterior, 0.5)
    elif diffusion.variance == "learned_range":  # IDDPM eq. 15, with v in [-1, 1]
        offset, slope = (np.log(c.betas) + posterior) / 4, (np.log(c.betas) - posterior) / 4
    else:
        fixed_large = diffusion.variance == "fixed_large"
        offset, slope = (np.log(diffusion.fixed_large_variance) if fixed_large else posterior) / 2, None
    return np.where(noisy, offset, -np.inf), None if slope is None else slope * noisy
