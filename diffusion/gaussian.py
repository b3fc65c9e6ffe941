"""The Gaussian diffusion process: the forward process q, its posterior, and the reverse process p that a network predicts.

Images are [N, C, H, W] in [-1, 1]. `t` is int64 [N]: numbers of steps in a chain of K steps, which may be respaced.
Equations are numbered as in Ho et al. 2020 (DDPM) and Nichol & Dhariwal 2021 (IDDPM).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffusion.coefficients import Coefficients
from diffusion.lookup import look_up
from diffusion.parameterisation import PARAMETERISATIONS, VARIANCES, Pair
from diffusion.schedules import forward_weights, respaced_betas

Network = Callable[..., Tensor]
"""network(x_t, time, **model_kwargs) -> [N, C or 2C, H, W]; `time` is float [N], in the units that the network was trained on.

A network may also have a method `along(times [K], **model_kwargs)` that returns at_step(x_t, number int64 [1]): the network at
times[number]. Samplers use that method where it exists.
"""


Combination = Callable[[Tensor, Tensor, Tensor], Tensor]
"""combine(first, second, t) = a[t] * first + b[t] * second, for a pair of coefficients (a, b)."""


@dataclass(frozen=True)
class Prediction:
    """p(x_{t-1} | x_t) and the image that it aims at, [N, C, H, W] each."""

    mean: Tensor
    log_variance: Tensor
    pred_xstart: Tensor

    @property
    def variance(self) -> Tensor:
        return self.log_variance.exp()


class GaussianDiffusion:
    """A chain of K steps, its coefficients as float32 tables on one device.

    betas              float64 [T] of the chain that the network is trained on
    timesteps          the steps that this chain visits, ascending (see `respacing`); None: all
    predict            meaning of the network's first C channels, a name of PARAMETERISATIONS
    variance           variance of p, a name of VARIANCES; a learned one reads the network's last C channels
    rescale_timesteps  give the network the time t * 1000 / T instead of t
    Raises ValueError for an unknown name, and for betas outside (0, 1].
    """

    def __init__(self, betas: np.ndarray, *, predict: str = "epsilon", variance: str = "fixed_large",
                 timesteps: list[int] | None = None, rescale_timesteps: bool = False,
                 device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.timestep_map = list(range(len(betas))) if timesteps is None else list(timesteps)
        # A chain of all steps takes the betas as they are: the way through alpha_bar and back would round them.
        self.coefficients = Coefficients.of(betas if timesteps is None else respaced_betas(betas, self.timestep_map))
        self.num_timesteps = len(self.timestep_map)
        self.parameterisation = look_up(PARAMETERISATIONS, predict, "predict")
        self.variance = look_up(VARIANCES, variance, "variance")

        # In float32, as published networks were trained: an embedding shows one bit of a time near 1000.
        scale = np.float32(1000 / len(betas) if rescale_timesteps else 1.0)
        self.network_times = self._table(np.array(self.timestep_map, dtype=np.float32) * scale)
        c = self.coefficients
        self._x_t = self._combination(Pair(*forward_weights(c.betas)))
        self._posterior_mean = self._combination(Pair(c.posterior_mean_coef1, c.posterior_mean_coef2))
        self._posterior_log_variance = self._table(c.posterior_log_variance_clipped)
        self._x_start = self._combination(self.parameterisation.x_start(c))
        self._target = self._combination(self.parameterisation.target(c))
        offset, slope = self.variance.log_variance(c)
        self._log_variance = self._table(offset - slope), self._table(offset + slope)  # at v = -1 and at v = 1
        self._sqrt_recip_alphas_cumprod = self._table(np.sqrt(1 / c.alphas_cumprod))
        self._sqrt_recipm1_alphas_cumprod = self._table(np.sqrt(1 / c.alphas_cumprod - 1))

    def _table(self, values: np.ndarray) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def _combination(self, pair: Pair) -> Combination:
        if pair.only_first:
            return lambda first, second, t: first
        if pair.only_second:
            return lambda first, second, t: second
        a, b = self._table(pair.a), self._table(pair.b)
        return lambda first, second, t: _at(a, t) * first + _at(b, t) * second

    # q: from data to noise

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t drawn from q(x_t | x_start) with the given standard normal noise (DDPM eq. 4)."""
        return self._x_t(x_start, noise, t)

    def q_posterior(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [N, C, H, W] and clipped log variance [N, 1, 1, 1] of q(x_{t-1} | x_t, x_start) (DDPM eq. 6, 7)."""
        return self._posterior_mean(x_start, x_t, t), _at(self._posterior_log_variance, t)

    def target(self, x_start: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The output [N, C, H, W] that training asks of the network at x_t = q_sample(x_start, t, noise)."""
        return self._target(x_start, noise, t)

    # p: from noise to data

    def p_mean_variance(self, network: Network, x_t: Tensor, t: Tensor, *, clip_denoised: bool = True,
                        model_kwargs: dict | None = None) -> Prediction:
        """p(x_{t-1} | x_t) by one evaluation of the network; see `prediction`."""
        output, v = self.evaluate(network, x_t, t, model_kwargs)
        return self.prediction(output, v, x_t, t, clip_denoised=clip_denoised)

    def evaluate(self, network: Network, x_t: Tensor, t: Tensor,
                 model_kwargs: dict | None = None) -> tuple[Tensor, Tensor | None]:
        """The network's output at chain steps `t`, split by `split`: float32 whatever precision the network computes in."""
        return self.split(network(x_t, self.network_times[t], **(model_kwargs or {})).float(), x_t.shape[1])

    def split(self, output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
        """The output's image channels [N, C, H, W], and its variance channels v (None where the variance is fixed).

        Raises ValueError where the output has another number of channels than these need.
        """
        learned = self.variance.learned
        if output.shape[1] != channels * (1 + learned):
            raise ValueError(f"a {'learned' if learned else 'fixed'} variance needs {channels * (1 + learned)} output channels "
                             f"for {channels} image channels; the network gives {output.shape[1]}")
        if not learned:
            return output, None
        output, v = output.chunk(2, dim=1)
        return output, v

    def prediction(self, output: Tensor, v: Tensor | None, x_t: Tensor, t: Tensor, *, clip_denoised: bool = True) -> Prediction:
        """p(x_{t-1} | x_t) from the two parts of the network's output. `clip_denoised`: x_start is clipped to [-1, 1]."""
        pred_xstart = self._x_start(x_t, output, t)
        if clip_denoised:
            pred_xstart = clipped(pred_xstart)
        mean = output if self.parameterisation.output_is_mean else self._posterior_mean(pred_xstart, x_t, t)
        low, high = (_at(table, t) for table in self._log_variance)
        if v is None:
            return Prediction(mean, low.expand_as(x_t), pred_xstart)
        fraction = (v + 1) / 2  # as IDDPM eq. 15 has it: offset + slope * v rounds otherwise, and so would every trained weight
        return Prediction(mean, fraction * high + (1 - fraction) * low, pred_xstart)

    def epsilon(self, x_t: Tensor, t: Tensor, pred_xstart: Tensor) -> Tensor:
        """The noise that leads from `pred_xstart` to `x_t` (DDPM eq. 4, solved for epsilon)."""
        return (_at(self._sqrt_recip_alphas_cumprod, t) * x_t - pred_xstart) / _at(self._sqrt_recipm1_alphas_cumprod, t)


def clipped(pred_xstart: Tensor, v: Tensor | None = None) -> Tensor:
    """`pred_xstart` clipped to [-1, 1], a new tensor; NaN where pred_xstart or `v` is infinite.

    Infinities are an overflow of the network. Clipped, one would pass for a black or white pixel, and v = -inf for no noise.
    """
    return finite_where(pred_xstart.clamp(-1, 1), pred_xstart, v)


def finite_where(held: Tensor, pred_xstart: Tensor, v: Tensor | None) -> Tensor:
    """`held`, changed in place: NaN where pred_xstart or `v` is infinite or NaN."""
    return held.add_(pred_xstart, alpha=0) if v is None else held.addcmul_(pred_xstart, v, value=0)


def _at(table: Tensor, t: Tensor) -> Tensor:
    """The entries [K] at steps `t` [N], shaped [N, 1, 1, 1]."""
    return table[t].view(-1, 1, 1, 1)
