"""The network along one reverse chain: all that depends on the step alone is computed before the first step.

`gaussian.p_mean_variance` says the same for any mixture of steps. Here a whole batch stands at one step, so coefficients are
plain numbers, multiplied out in float64, that reach the kernels as their arguments: a step is few kernels, copies nothing to
the device and waits for nothing on it.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from diffusion.gaussian import GaussianDiffusion, Network

AtStep = Callable[[Tensor, int], Tensor]
"""at_step(x_t, step) -> [N, C or 2C, H, W]: the network at a step of the chain."""


class Denoiser:
    """denoiser(x_t [N, C, H, W], step) -> (pred_xstart, output, v): as in `GaussianDiffusion.prediction`.

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
        from_x, from_output = {
            "epsilon": (np.sqrt(1 / c.alphas_cumprod), -np.sqrt(1 / c.alphas_cumprod - 1)),  # DDPM eq. 4
            "x_prev": (-c.posterior_mean_coef2 / c.posterior_mean_coef1, 1 / c.posterior_mean_coef1),  # DDPM eq. 7
            "x_start": (None, None)}[diffusion.predict]
        self.from_x, self.from_output = (from_x, from_output) if from_x is None else (from_x.tolist(), from_output.tolist())

    @torch.no_grad()
    def __call__(self, x_t: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        output, v = self.diffusion.split(self.at_step(x_t, step).float(), x_t.shape[1])
        if self.from_x is None:
            pred_xstart = output
        else:
            pred_xstart = torch.mul(x_t, self.from_x[step]).add_(output, alpha=self.from_output[step])
        if self.denoised_fn is not None:
            pred_xstart = self.denoised_fn(pred_xstart)
        return pred_xstart.clamp(-1, 1) if self.clip_denoised else pred_xstart, output, v


def _at_step(network: Network, times: Tensor, model_kwargs: dict) -> AtStep:
    """`network` with its time looked up; where it can embed a whole chain beforehand (`UNet.along`), with that."""
    if hasattr(network, "along"):
        return network.along(times, **model_kwargs)
    return lambda x, step: network(x, times[step].expand(len(x)), **model_kwargs)


def deviation(diffusion: GaussianDiffusion) -> tuple[list[float], list[float] | None]:
    """(scale [K], slope [K]): p's standard deviation at step t is scale[t] * exp(slope[t] * v).

    slope is None where the variance is fixed: then it is scale[t].
    """
    c = diffusion.coefficients
    posterior = c.posterior_log_variance_clipped
    if diffusion.variance == "learned":
        return [1.0] * diffusion.num_timesteps, [0.5] * diffusion.num_timesteps
    if diffusion.variance == "learned_range":  # IDDPM eq. 15, with v in [-1, 1]
        log_betas = np.log(c.betas)
        return np.exp((log_betas + posterior) / 4).tolist(), ((log_betas - posterior) / 4).tolist()
    if diffusion.variance == "fixed_large":
        return np.sqrt(diffusion.fixed_large_variance).tolist(), None
    return np.exp(posterior / 2).tolist(), None
