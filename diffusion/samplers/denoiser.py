"""The network along one reverse chain, faster than `GaussianDiffusion.p_mean_variance` because a whole batch is at one step.

All that depends on the step alone is computed before the first step: coefficients, in float64, and embeddings of time. They are
tables on the device, and the number of the step, which looks them up, is on the device too. So a step is few kernels, copies
nothing from the host and never waits. Steps of one phase run the same kernels: a CUDA graph can record one and replay it for all.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from diffusion.gaussian import GaussianDiffusion, Network, clipped
from diffusion.samplers.thresholds import dynamically_clipped

AtStep = Callable[[Tensor, Tensor], Any]
"""at_step(x_t, number) -> [N, C or 2C, H, W]: the network at step `number` int64 [1] of the chain."""


@dataclass(frozen=True)
class At:
    """A step of the chain, by its number on the device and on the host."""

    number: Tensor
    """int64 [1], on the device: looks up tables."""
    step: int
    """On the host: chooses the phase, and nothing else, because one recording serves all steps of a phase."""

    def next(self) -> "At":
        """The step after this one, which is one lower."""
        return At(self.number - 1, self.step - 1)


@dataclass(frozen=True)
class Phased:
    """A network that does other work at some steps than at others: `at_steps[phases[k]]` is the network at step k of the chain.

    A network's method `along` may return one instead of an at_step. Guidance within an interval is an example: outside, only the
    network that is guided is evaluated.
    """

    at_steps: Sequence[AtStep]
    phases: Sequence[int]
    """[K]"""

    def at(self, step: int) -> AtStep:
        return self.at_steps[self.phases[step]]


class HasAlong(Protocol):
    """A network, or a guide, that is only ever evaluated at the steps of a chain."""

    def along(self, times: Tensor, /, *args: Any, **model_kwargs: Any) -> AtStep | Phased:
        """The network at the steps of the chain with `times` [K]."""


class Denoiser:
    """What samplers ask at each step of a chain: the image that the network predicts. Computes without gradients.

    diffusion      the chain
    network        a `gaussian.Network`
    clip_denoised  clip each predicted image to [-1, 1]; "dynamic": see `thresholds`, with the quantile dynamic_thresholding_ratio
    model_kwargs   further arguments of the network, such as class labels y
    guide          guide(x_t, time) -> [N, C, H, W]: the gradient, with respect to x_t, of the log probability that guides
                   (Dhariwal & Nichol 2021), scale included; None at steps without guidance. A guide knows the labels, enables
                   gradients by itself, and may have a method `along(times)` as networks have
    """

    @torch.no_grad()
    def __init__(self, diffusion: GaussianDiffusion, network: Network | HasAlong, *,
                 clip_denoised: bool | Literal["dynamic"] = True, dynamic_thresholding_ratio: float = 0.995,
                 model_kwargs: dict | None = None, guide: Callable[[Tensor, Tensor], Tensor | None] | HasAlong | None = None):
        self.diffusion, self.clip_denoised, self.ratio = diffusion, clip_denoised, dynamic_thresholding_ratio
        self.network = along(network, diffusion.network_times, model_kwargs or {})
        self.guide = None if guide is None else along(guide, diffusion.network_times, {})
        c = diffusion.coefficients
        pair = diffusion.parameterisation.x_start(c)
        self.coefficients = None if pair.only_second else columns(diffusion.device, *pair)
        self.shift = columns(diffusion.device, (1 - c.alphas_cumprod) / np.sqrt(c.alphas_cumprod))

    @torch.no_grad()
    def __call__(self, x_t: Tensor, at: At) -> tuple[Tensor, Tensor, Tensor | None]:
        """(pred_xstart, output, v) at x_t [N, C, H, W], without the guide.

        `output` is the network's image channels, `v` its variance channels or None: see `GaussianDiffusion.split`. pred_xstart is
        the image that they imply, clipped where asked; NaN where the network's output is not finite. None of the three shares
        memory with x_t.
        """
        output, v = self.diffusion.split(self.network.at(at.step)(x_t, at.number).float(), x_t.shape[1])
        if self.coefficients is None:
            pred_xstart = output
        else:
            from_x, from_output = self.coefficients(at.number)
            pred_xstart = torch.mul(x_t, from_x).addcmul_(output, from_output)
        if self.clip_denoised == "dynamic":
            pred_xstart = dynamically_clipped(pred_xstart, v, self.ratio)
        elif self.clip_denoised:
            pred_xstart = clipped(pred_xstart, v)
        return pred_xstart, output, v

    def gradient(self, x_t: Tensor, at: At) -> Tensor | None:
        """The guide's gradient at x_t, [N, C, H, W]; None without guidance. Times the variance, it shifts the mean of p."""
        return None if self.guide is None else self.guide.at(at.step)(x_t, at.number)

    @torch.no_grad()
    def guided(self, x_t: Tensor, at: At) -> Tensor:
        """pred_xstart [N, C, H, W] of x_t, moved by the guide's gradient of the score, and not clipped again after that.

        Dhariwal & Nichol 2021, algorithm 2: epsilon - sqrt(1 - alpha_bar) * gradient, solved for x_start (DDPM eq. 4).
        """
        pred_xstart, _, _ = self(x_t, at)
        gradient = self.gradient(x_t, at)
        return pred_xstart if gradient is None else torch.addcmul(pred_xstart, gradient, *self.shift(at.number))

    def phase(self, step: int) -> Hashable:
        """What network and guide do at this step of the chain: the work is equal at steps of one phase."""
        return self.network.phases[step], self.guide and self.guide.phases[step]


def columns(device: torch.device, *values: np.ndarray) -> Callable[[Tensor], Sequence[Tensor]]:
    """at(number int64 [1]) -> the entry of each of the `values` [K] at that number, float32 [1]. One kernel looks up all."""
    table = torch.from_numpy(np.stack(values, axis=1).astype(np.float32)).to(device)
    return lambda number: table.index_select(0, number).unbind(1)


def along(network: Callable[..., Any] | HasAlong, times: Tensor, model_kwargs: dict) -> Phased:
    """`network` at each step of the chain with `times` [K]. One with a method `along` computes its embeddings of all here."""
    if hasattr(network, "along"):
        at_step = network.along(times, **model_kwargs)
    else:
        def at_step(x: Tensor, number: Tensor) -> Any:
            return network(x, times.index_select(0, number).expand(len(x)), **model_kwargs)
    return at_step if isinstance(at_step, Phased) else Phased([at_step], [0] * len(times))
