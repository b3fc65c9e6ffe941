"""The numbers of a Gaussian diffusion process at each step of a chain, in float64. numpy only: a login node reads them.

Equations are numbered as in Ho et al. 2020 (DDPM).
"""

from dataclasses import dataclass

import numpy as np

from diffusion.schedules import alphas_cumprod_of


@dataclass(frozen=True)
class Coefficients:
    """Coefficients of a chain of K steps, float64 [K] each.

    alphas_cumprod is alpha_bar: the share of the variance of x_t that comes from the image. `_prev` is its value one step
    earlier, 1 before the first step.
    """

    betas: np.ndarray
    alphas_cumprod: np.ndarray
    alphas_cumprod_prev: np.ndarray
    posterior_variance: np.ndarray
    posterior_log_variance_clipped: np.ndarray
    posterior_mean_coef1: np.ndarray
    """Of x_start in the mean of q(x_{t-1} | x_t, x_start)."""
    posterior_mean_coef2: np.ndarray
    """Of x_t in that mean."""

    @staticmethod
    def of(betas: np.ndarray) -> "Coefficients":
        """Coefficients of the chain with the given betas [K] (DDPM eq. 4, 6 and 7).

        Raises ValueError where betas are not a one-dimensional array of values in (0, 1].
        """
        if betas.ndim != 1 or not ((betas > 0) & (betas <= 1)).all():
            raise ValueError("betas must be one-dimensional and in (0, 1]")
        alphas_cumprod = alphas_cumprod_of(betas)
        before = np.append(1.0, alphas_cumprod[:-1])
        variance = betas * (1 - before) / (1 - alphas_cumprod)
        return Coefficients(
            betas=betas,
            alphas_cumprod=alphas_cumprod,
            alphas_cumprod_prev=before,
            posterior_variance=variance,
            # The posterior variance is 0 at t = 0, so its logarithm takes the value of t = 1 there.
            posterior_log_variance_clipped=np.log(np.append(variance[1:2], variance[1:]) if len(betas) > 1 else betas),
            posterior_mean_coef1=betas * np.sqrt(before) / (1 - alphas_cumprod),
            posterior_mean_coef2=(1 - before) * np.sqrt(1 - betas) / (1 - alphas_cumprod),
        )
