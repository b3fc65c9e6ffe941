"""The Gaussian diffusion process: q forward, the posterior, and p as a network parameterises it.

Images are [N, C, H, W] in [-1, 1]; `t` is int64 [N], an index into the (possibly respaced) chain of K steps.
Equations are numbered as in Ho et al. 2020 (DDPM) and Nichol & Dhariwal 2021 (IDDPM).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diffusion.schedules import alphas_cumprod_of, forward_weights, respaced_betas

Predict = Literal["epsilon", "x_start", "x_prev"]
Variance = Literal["fixed_small", "fixed_large", "learned", "learned_range"]
Network = Callable[..., Tensor]
"""network(x_t, time, **model_kwargs) -> [N, C or 2C, H, W]; `time` is float [N] as the network was trained on.

Samplers also use its method `along(times [K], **model_kwargs)`, where it has one: (x_t, number int64 [1]) -> the same at that
one of times.
"""


@dataclass(frozen=True)
class Coefficients:
    """What the process needs at every step, float64 [K] each."""

    betas: np.ndarray
    alphas_cumprod: np.ndarray
    alphas_cumprod_prev: np.ndarray
    alphas_cumprod_next: np.ndarray
    posterior_variance: np.ndarray
    posterior_log_variance_clipped: np.ndarray
    posterior_mean_coef1: np.ndarray
    posterior_mean_coef2: np.ndarray

    @staticmethod
    def of(betas: np.ndarray) -> "Coefficients":
        """DDPM eq. 4 and 7. Raises ValueError for betas that are not a 1-D array in (0, 1]."""
        if betas.ndim != 1 or not ((betas > 0) & (betas <= 1)).all():
            raise ValueError("betas must be one-dimensional and in (0, 1]")
        alphas_cumprod = alphas_cumprod_of(betas)
        before = np.append(1.0, alphas_cumprod[:-1])
        variance = betas * (1 - before) / (1 - alphas_cumprod)
        return Coefficients(
            betas=betas,
            alphas_cumprod=alphas_cumprod,
            alphas_cumprod_prev=before,
            alphas_cumprod_next=np.append(alphas_cumprod[1:], 0.0),
            posterior_variance=variance,
            # The posterior variance is 0 at t = 0; its log takes the value of t = 1 there.
            posterior_log_variance_clipped=np.log(np.append(variance[1:2], variance[1:]) if len(betas) > 1 else betas),
            posterior_mean_coef1=betas * np.sqrt(before) / (1 - alphas_cumprod),
            posterior_mean_coef2=(1 - before) * np.sqrt(1 - betas) / (1 - alphas_cumprod),
        )


@dataclass(frozen=True)
class Prediction:
    """p(x_{t-1} | x_t): mean, variance and log variance, and the x_start behind them; [N, C, H, W] each."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor
    pred_xstart: Tensor


class GaussianDiffusion:
    """A chain of K steps with its coefficients as float32 tables on one device.

    betas              float64 [T] of the chain the network is trained on
    timesteps          which of its steps this chain visits, ascending; None: all (see `respacing`)
    predict            what the network's first C channels are
    variance           how p's variance comes about; the learned kinds read the network's last C channels
    rescale_timesteps  the network's time is t * 1000 / T instead of t
    """

    def __init__(self, betas: np.ndarray, *, predict: Predict = "epsilon", variance: Variance = "fixed_large",
                 timesteps: list[int] | None = None, rescale_timesteps: bool = False,
                 device: torch.device | str = "cpu"):
        self.predict, self.variance, self.device = predict, variance, torch.device(device)
        self.timestep_map = list(range(len(betas))) if timesteps is None else list(timesteps)
        # All steps: the betas as they are, without the rounding of going through alpha_bar and back.
        self.coefficients = Coefficients.of(betas if timesteps is None else respaced_betas(betas, self.timestep_map))
        self.num_timesteps = len(self.timestep_map)

        # In float32 as published networks were trained: one bit of a time near 1000 is visible in its embedding.
        scale = np.float32(1000 / len(betas) if rescale_timesteps else 1.0)
        self.network_times = self._table(np.array(self.timestep_map, dtype=np.float32) * scale)
        self._tables = {field.name: self._table(getattr(self.coefficients, field.name)) for field in fields(Coefficients)}
        c = self.coefficients
        signal, noise = forward_weights(c.betas)
        self._tables |= {
            "sqrt_alphas_cumprod": self._table(signal),
            "sqrt_one_minus_alphas_cumprod": self._table(noise),
            "log_one_minus_alphas_cumprod": self._table(np.log(1 - c.alphas_cumprod)),
            "sqrt_recip_alphas_cumprod": self._table(np.sqrt(1 / c.alphas_cumprod)),
            "sqrt_recipm1_alphas_cumprod": self._table(np.sqrt(1 / c.alphas_cumprod - 1)),
            "log_betas": self._table(np.log(c.betas)),
            "fixed_large_variance": self._table(self.fixed_large_variance),
        }

    @property
    def fixed_large_variance(self) -> np.ndarray:
        """float64 [K]: beta, and at t = 0 the posterior's of t = 1."""
        c = self.coefficients
        return np.append(c.posterior_variance[1:2], c.betas[1:]) if self.num_timesteps > 1 else c.betas

    def _table(self, values: np.ndarray) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def at(self, name: str, t: Tensor) -> Tensor:
        """Coefficient `name` at steps `t`, shaped [N, 1, 1, 1]."""
        return self._tables[name][t].view(-1, 1, 1, 1)

    # q: from data to noise

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t drawn from q(x_t | x_start) with the given standard normal noise (DDPM eq. 4)."""
        return self.at("sqrt_alphas_cumprod", t) * x_start + self.at("sqrt_one_minus_alphas_cumprod", t) * noise

    def q_mean_variance(self, x_start: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean [N, C, H, W], variance and log variance [N, 1, 1, 1] of q(x_t | x_start) (DDPM eq. 4)."""
        return (self.at("sqrt_alphas_cumprod", t) * x_start, 1 - self.at("alphas_cumprod", t),
                self.at("log_one_minus_alphas_cumprod", t))

    def q_posterior(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean [N, C, H, W], variance and clipped log variance [N, 1, 1, 1] of q(x_{t-1} | x_t, x_start) (DDPM eq. 6, 7)."""
        mean = self.at("posterior_mean_coef1", t) * x_start + self.at("posterior_mean_coef2", t) * x_t
        return mean, self.at("posterior_variance", t), self.at("posterior_log_variance_clipped", t)

    # p: from noise to data

    def p_mean_variance(self, network: Network, x_t: Tensor, t: Tensor, *, clip_denoised: bool = True,
                        denoised_fn: Callable[[Tensor], Tensor] | None = None,
                        model_kwargs: dict | None = None) -> Prediction:
        """p(x_{t-1} | x_t) by one evaluation of the network; see `prediction`."""
        output = self.evaluate(network, x_t, t, model_kwargs)
        return self.prediction(output, x_t, t, clip_denoised=clip_denoised, denoised_fn=denoised_fn)

    def evaluate(self, network: Network, x_t: Tensor, t: Tensor, model_kwargs: dict | None = None) -> Tensor:
        """The network's output at chain steps `t`, in float32 whatever precision it computes in."""
        return network(x_t, self.network_times[t], **(model_kwargs or {})).float()

    def prediction(self, output: Tensor, x_t: Tensor, t: Tensor, *, clip_denoised: bool = True,
                   denoised_fn: Callable[[Tensor], Tensor] | None = None) -> Prediction:
        """p(x_{t-1} | x_t) from the network's output [N, C or 2C, H, W].

        x_start passes through `denoised_fn`, then is clipped to [-1, 1] where asked. With predict="x_prev" the mean is
        the output itself.
        """
        output, variance, log_variance = self._split_variance(output, x_t, t)
        pred_xstart = self._x_start(output, x_t, t)
        if denoised_fn is not None:
            pred_xstart = denoised_fn(pred_xstart)
        if clip_denoised:
            pred_xstart = pred_xstart.clamp(-1, 1)
        mean = output if self.predict == "x_prev" else self.q_posterior(pred_xstart, x_t, t)[0]
        return Prediction(mean, variance, log_variance, pred_xstart)

    def split(self, output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
        """The network's output as its image channels and those of the variance, None where that is fixed.

        Raises ValueError where it has not as many channels as that takes.
        """
        learned = self.variance in ("learned", "learned_range")
        if output.shape[1] != channels * (1 + learned):
            raise ValueError(f"variance {self.variance} needs {channels * (1 + learned)} output channels "
                             f"for {channels} image channels; the network gives {output.shape[1]}")
        return output.chunk(2, dim=1) if learned else (output, None)

    def _split_variance(self, output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The output without its variance channels, the variance and its log, [N, C, H, W] each."""
        output, v = self.split(output, x_t.shape[1])
        if self.variance == "learned":
            log_variance = v
        elif self.variance == "learned_range":  # IDDPM eq. 15, with v in [-1, 1]
            fraction = (v + 1) / 2
            log_variance = (fraction * self.at("log_betas", t)
                            + (1 - fraction) * self.at("posterior_log_variance_clipped", t))
        elif self.variance == "fixed_large":
            variance = self.at("fixed_large_variance", t).expand_as(x_t)
            return output, variance, variance.log()
        else:
            log_variance = self.at("posterior_log_variance_clipped", t).expand_as(x_t)
            return output, self.at("posterior_variance", t).expand_as(x_t), log_variance
        return output, log_variance.exp(), log_variance

    def _x_start(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        if self.predict == "x_start":
            return output
        if self.predict == "epsilon":  # DDPM eq. 4, solved for x_start
            return self.at("sqrt_recip_alphas_cumprod", t) * x_t - self.at("sqrt_recipm1_alphas_cumprod", t) * output
        return (output - self.at("posterior_mean_coef2", t) * x_t) / self.at("posterior_mean_coef1", t)

    def epsilon(self, x_t: Tensor, t: Tensor, pred_xstart: Tensor) -> Tensor:
        """The noise that leads from `pred_xstart` to `x_t` (DDPM eq. 4, solved for epsilon)."""
        return (self.at("sqrt_recip_alphas_cumprod", t) * x_t - pred_xstart) / self.at("sqrt_recipm1_alphas_cumprod", t)
