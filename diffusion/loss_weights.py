"""Weights of the mean squared error at each step, by name. numpy only: a login node reads the names.

A weight is defined on the squared error of x_start, and converted to the quantity that the network predicts. Thus the gradient
with respect to x_start is one and the same whatever is predicted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion.coefficients import Coefficients
from diffusion.lookup import look_up
from diffusion.parameterisation import Parameterisation


def signal_to_noise(c: Coefficients) -> np.ndarray:
    """alpha_bar / (1 - alpha_bar), float64 [K]."""
    return c.alphas_cumprod / (1 - c.alphas_cumprod)


@dataclass(frozen=True)
class LossWeight:
    """A weight on the squared error of x_start, as a function of the signal-to-noise ratio."""

    of_x_start: Callable[..., np.ndarray] | None
    """of_x_start(snr [K], **settings) -> [K]; None: the error of the predicted quantity counts as it is."""
    settings: tuple[str, ...] = ()
    """Names of the settings that `of_x_start` takes."""


def _min_snr(snr: np.ndarray, *, min_snr_gamma: float) -> np.ndarray:
    """Hang et al. 2023 (Min-SNR): min(snr, gamma) on the squared error of x_start."""
    return np.minimum(snr, min_snr_gamma)


def _p2(snr: np.ndarray, *, p2_gamma: float, p2_k: float) -> np.ndarray:
    """Choi et al. 2022 (P2): 1 / (k + snr)^gamma on the squared error of epsilon, which is snr times that of x_start."""
    return snr / (p2_k + snr) ** p2_gamma


LOSS_WEIGHTS: dict[str, LossWeight] = {
    "none": LossWeight(None),
    "min_snr": LossWeight(_min_snr, ("min_snr_gamma",)),
    "p2": LossWeight(_p2, ("p2_gamma", "p2_k")),
}
"""By the name that a spec's `diffusion.loss_weight` takes."""


def loss_weights(name: str, c: Coefficients, parameterisation: Parameterisation, **settings: Any) -> np.ndarray | None:
    """Weights float64 [K] of the mean squared error of what is predicted; None where every step counts alike.

    `settings`: those that LOSS_WEIGHTS[name] names. Raises ValueError for a name that is not in LOSS_WEIGHTS.
    """
    weight = look_up(LOSS_WEIGHTS, name, "loss_weight")
    if weight.of_x_start is None:
        return None
    # x_start = a * x_t + b * output: the squared error of x_start is b^2 times that of the output.
    return weight.of_x_start(signal_to_noise(c), **settings) * parameterisation.x_start(c).b ** 2
