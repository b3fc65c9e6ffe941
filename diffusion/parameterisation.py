"""Meanings of a network's output. numpy only: a login node reads the names.

A network predicts a quantity from which the mean of p(x_{t-1} | x_t) follows (PARAMETERISATIONS), and for some variances of p
also a number v for each pixel (VARIANCES). Everything here is linear, so coefficients describe it: training, the likelihood and
the samplers all take them from these two tables.
Equations are numbered as in Ho et al. 2020 (DDPM) and Nichol & Dhariwal 2021 (IDDPM).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from diffusion.coefficients import Coefficients


class Pair(NamedTuple):
    """Coefficients of the combination a * first + b * second, float64 [K] each."""

    a: np.ndarray
    b: np.ndarray

    @property
    def only_first(self) -> bool:
        """The combination is `first` at every step, and needs no arithmetic."""
        return bool((self.a == 1).all() and (self.b == 0).all())

    @property
    def only_second(self) -> bool:
        return bool((self.a == 0).all() and (self.b == 1).all())


@dataclass(frozen=True)
class Parameterisation:
    """A quantity that a network can predict, linear in x_start and noise."""

    x_start: Callable[[Coefficients], Pair]
    """x_start = a * x_t + b * output"""
    target: Callable[[Coefficients], Pair]
    """The output that training asks for = a * x_start + b * noise"""
    output_is_mean: bool = False
    """The output itself is the mean of p(x_{t-1} | x_t). Otherwise the mean follows from x_start (DDPM eq. 7)."""


def _first(c: Coefficients) -> Pair:
    return Pair(np.ones_like(c.betas), np.zeros_like(c.betas))


def _second(c: Coefficients) -> Pair:
    return Pair(np.zeros_like(c.betas), np.ones_like(c.betas))


def _x_prev_target(c: Coefficients) -> Pair:
    """The mean of q(x_{t-1} | x_t, x_start) (DDPM eq. 7), with x_t written as x_start and noise (eq. 4)."""
    return Pair(c.posterior_mean_coef1 + c.posterior_mean_coef2 * np.sqrt(c.alphas_cumprod),
                c.posterior_mean_coef2 * np.sqrt(1 - c.alphas_cumprod))


PARAMETERISATIONS: dict[str, Parameterisation] = {
    "epsilon": Parameterisation(  # the noise; DDPM eq. 4, solved for x_start
        x_start=lambda c: Pair(np.sqrt(1 / c.alphas_cumprod), -np.sqrt(1 / c.alphas_cumprod - 1)),
        target=_second),
    "x_start": Parameterisation(  # the image
        x_start=_second,
        target=_first),
    "x_prev": Parameterisation(  # the mean of x_{t-1}; DDPM eq. 7, solved for x_start
        x_start=lambda c: Pair(-c.posterior_mean_coef2 / c.posterior_mean_coef1, 1 / c.posterior_mean_coef1),
        target=_x_prev_target,
        output_is_mean=True),
    "v": Parameterisation(  # Salimans & Ho 2022, section 4: v = sqrt(alpha_bar) * noise - sqrt(1 - alpha_bar) * x_start
        x_start=lambda c: Pair(np.sqrt(c.alphas_cumprod), -np.sqrt(1 - c.alphas_cumprod)),
        target=lambda c: Pair(-np.sqrt(1 - c.alphas_cumprod), np.sqrt(c.alphas_cumprod))),
}
"""By the name that a spec's `diffusion.predict` takes."""


@dataclass(frozen=True)
class Variance:
    """A way to choose the variance of p(x_{t-1} | x_t)."""

    log_variance: Callable[[Coefficients], Pair]
    """log variance = a + b * v"""
    learned: bool
    """The network has as many channels for v as for the image. Otherwise there is no v, and b is 0."""


def _fixed_small(c: Coefficients) -> Pair:
    """The variance of the posterior (DDPM eq. 7)."""
    return Pair(c.posterior_log_variance_clipped, np.zeros_like(c.betas))


def _fixed_large(c: Coefficients) -> Pair:
    """Beta (DDPM, section 3.2), but at t = 0 the posterior's variance of t = 1."""
    return Pair(np.append(c.posterior_log_variance_clipped[:1], np.log(c.betas[1:])), np.zeros_like(c.betas))


def _learned_range(c: Coefficients) -> Pair:
    """A mixture of log beta (v = 1) and the posterior's log variance (v = -1); IDDPM eq. 15 with v scaled to [-1, 1]."""
    low, high = c.posterior_log_variance_clipped, np.log(c.betas)
    return Pair((high + low) / 2, (high - low) / 2)


VARIANCES: dict[str, Variance] = {
    "fixed_small": Variance(_fixed_small, learned=False),
    "fixed_large": Variance(_fixed_large, learned=False),
    "learned_range": Variance(_learned_range, learned=True),
}
"""By name. A spec chooses by `model.learn_sigma` and `diffusion.sigma_small`."""
