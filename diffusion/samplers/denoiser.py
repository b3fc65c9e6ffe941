"""The network along one reverse chain, faster than `GaussianDiffusion.p_mean_variance` because a whole batch is at one step.

All that depends on the step alone is computed before the first step: coefficients, in float64, and embeddings of time. They are
tables on the device, and the number of the step, which looks them up, is on the device too. So a step is few kernels, copies
nothing from the host and never waits. Every step runs the same kernels: a CUDA graph can record one and replay it for all.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from diffusion.gaussian import GaussianDiffusion, Network, clipped

AtStep = Callable[[Tensor, Tensor], Tensor]
"""at_step(x_t, number) -> [N, C or 2C, H, W]: the network at step `number` int64 [1] of the chain."""


class Denoiser:
    """denoiser(x_t [N, C, H, W], number int64 [1]) -> (pred_xstart, output, v), without gradients.

    `output` is the network's image channels, `v` its variance channels or None: see `GaussianDiffusion.split`. pred_xstart is the
    image that they imply, clipped to [-1, 1] where asked; NaN where the network's output is not finite. None of the three
    shares memory with x_t.
    """

    @torch.no_grad()
    def __init__(self, diffusion: GaussianDiffusion, network: Network, *, clip_denoised: bool = True,
                 model_kwargs: dict | None = None):
        self.diffusion, self.clip_denoised = diffusion, clip_denoised
        self.at_step = _at_step(network, diffusion.network_times, model_kwargs or {})
        pair = diffusion.parameterisation.x_start(diffusion.coefficients)
        self.coefficients = None if pair.only_second else columns(diffusion.device, *pair)

    @torch.no_grad()
    def __call__(self, x_t: Tensor, number: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        output, v = self.diffusion.split(self.at_step(x_t, number).float(), x_t.shape[1])
        if self.coefficients is None:
            pred_xstart = output
        else:
            from_x, from_output = self.coefficients(number)
            pred_xstart = torch.mul(x_t, from_x).addcmul_(output, from_output)
        return clipped(pred_xstart, v) if self.clip_denoised else pred_xstart, output, v


def columns(device: torch.device, *values: np.ndarray) -> Callable[[Tensor], Sequence[Tensor]]:
    """at(number int64 [1]) -> the entry of each of the `values` [K] at that number, float32 [1]. One kernel looks up all."""
    table = torch.from_numpy(np.stack(values, axis=1).astype(np.float32)).to(device)
    return lambda number: table.index_select(0, number).unbind(1)


def _at_step(network: Network, times: Tensor, model_kwargs: dict) -> AtStep:
    """`network` at a step number. A network with a method `along` computes its embeddings of all K times here."""
    if hasattr(network, "along"):
        return network.along(times, **model_kwargs)
    return lambda x, number: network(x, times.index_select(0, number).expand(len(x)), **model_kwargs)
