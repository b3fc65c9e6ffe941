"""At which noise levels a chain is guided. numpy only: a login node counts the evaluations of the network.

Source: Kynkäänniemi et al. 2024 (guidance in a limited interval, arXiv 2404.07724).
"""

from collections.abc import Sequence

import numpy as np


def sigma_of(alphas_cumprod: np.ndarray) -> np.ndarray:
    """sqrt((1 - alpha_bar) / alpha_bar): the deviation of the noise on an image that is not scaled down (Karras et al. 2022)."""
    return np.sqrt((1 - alphas_cumprod) / alphas_cumprod)


def strength(alphas_cumprod: np.ndarray, full: float, interval: Sequence[float] | None = None) -> np.ndarray:
    """The strength of guidance at each step, float64 [K]: `full` where sigma is in `interval`, ends included, and 0 elsewhere.

    `alphas_cumprod` [K] are those of the chain. `interval` None: everywhere.
    """
    sigma = sigma_of(alphas_cumprod)
    low, high = interval or (0, np.inf)
    return np.where((low <= sigma) & (sigma <= high), float(full), 0.0)
