"""Steps of solvers of the probability-flow ODE.

alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar), lambda = log(alpha / sigma).

A step leads from the noise level of its own number to that of the next step. The last step leads to the image without noise,
where alpha is 1, sigma 0 and lambda infinite.
"""

import numpy as np

from diffusion.coefficients import Coefficients
from diffusion.parameterisation import Pair
from diffusion.schedules import half_log_snr


def first_order(c: Coefficients) -> Pair:
    """The next x = a * x_t + b * pred_xstart: a step of DDIM without noise, which is that of DPM-Solver++ of first order.

    Song et al. 2021, eq. 12.
    """
    now, after = c.alphas_cumprod, c.alphas_cumprod_prev
    from_x = np.sqrt((1 - after) / (1 - now))
    return Pair(from_x, np.sqrt(after) - from_x * np.sqrt(now))


def log_snr_steps(c: Coefficients) -> np.ndarray:
    """By how much lambda grows in each step, float64 [K]; infinity where a step leads to the image without noise."""
    return half_log_snr(c.alphas_cumprod_prev) - half_log_snr(c.alphas_cumprod)
