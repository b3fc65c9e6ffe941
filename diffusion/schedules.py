"""Noise schedules: the betas of the forward process, in float64."""

import math
from collections.abc import Callable

import numpy as np

from diffusion.lookup import look_up


def linear_betas(diffusion_steps: int) -> np.ndarray:
    """Betas [T] rising evenly from 1e-4 to 0.02 at T = 1000, scaled by 1000 / T for other T.

    Ho et al. 2020, section 4; the scaling keeps the noise at the end the same (Nichol & Dhariwal 2021).
    A short chain (T <= 20) would need betas of 1 and more: ValueError.
    """
    scale = 1000 / diffusion_steps
    if scale * 0.02 >= 1:
        raise ValueError(f"a linear schedule needs at least 21 diffusion steps (got {diffusion_steps})")
    return np.linspace(scale * 1e-4, scale * 0.02, diffusion_steps, dtype=np.float64)


def cosine_betas(diffusion_steps: int, s: float = 0.008, max_beta: float = 0.999) -> np.ndarray:
    """Betas [T] that make alpha_bar a squared cosine, none above `max_beta` (Nichol & Dhariwal 2021, eq. 17)."""

    def alpha_bar(time: float) -> float:
        return math.cos((time + s) / (1 + s) * math.pi / 2) ** 2

    steps = range(diffusion_steps)
    betas = [1 - alpha_bar((t + 1) / diffusion_steps) / alpha_bar(t / diffusion_steps) for t in steps]
    return np.minimum(np.array(betas, dtype=np.float64), max_beta)


SCHEDULES: dict[str, Callable[[int], np.ndarray]] = {"linear": linear_betas, "cosine": cosine_betas}
"""By the name that a spec's `diffusion.noise_schedule` takes: schedule(T) -> betas [T]."""


def betas_of(noise_schedule: str, diffusion_steps: int) -> np.ndarray:
    """Betas [T] of a schedule of SCHEDULES. Raises ValueError for another name and for a chain too short for the schedule."""
    return look_up(SCHEDULES, noise_schedule, "noise_schedule")(diffusion_steps)


def respaced_betas(betas: np.ndarray, timesteps: list[int]) -> np.ndarray:
    """Betas [K] of the chain that visits only `timesteps` (ascending) and has the same alpha_bar there.

    Nichol & Dhariwal 2021, eq. 19.
    """
    alphas_cumprod = np.cumprod(1 - betas)[timesteps]
    before = np.append(1.0, alphas_cumprod[:-1])
    return 1 - alphas_cumprod / before
