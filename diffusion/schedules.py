"""Noise schedules: the betas of the forward process, in float64. numpy only: a login node reads them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diffusion.lookup import look_up


def linear_betas(diffusion_steps: int) -> np.ndarray:
    """Betas [T] that rise evenly from 1e-4 to 0.02 where T is 1000 (Ho et al. 2020, section 4), times 1000 / T for other T.

    The factor keeps the noise at the end of the chain nearly the same (Nichol & Dhariwal 2021). For T <= 20 the last betas
    would be 1 and more.
    """
    scale = 1000 / diffusion_steps
    return np.linspace(scale * 1e-4, scale * 0.02, diffusion_steps, dtype=np.float64)


def cosine_betas(diffusion_steps: int, s: float = 0.008, max_beta: float = 0.999) -> np.ndarray:
    """Betas [T], at most `max_beta`, whose alpha_bar is a squared cosine (Nichol & Dhariwal 2021, eq. 17)."""

    def alpha_bar(time: float) -> float:
        return math.cos((time + s) / (1 + s) * math.pi / 2) ** 2

    steps = range(diffusion_steps)
    betas = [1 - alpha_bar((t + 1) / diffusion_steps) / alpha_bar(t / diffusion_steps) for t in steps]
    return np.minimum(np.array(betas, dtype=np.float64), max_beta)


@dataclass(frozen=True)
class Schedule:
    betas: Callable[[int], np.ndarray]
    """betas(T) -> float64 [T]"""
    fewest_steps: int = 1
    """The smallest T for which all betas are below 1."""


SCHEDULES: dict[str, Schedule] = {"linear": Schedule(linear_betas, fewest_steps=21), "cosine": Schedule(cosine_betas)}
"""By the name that a spec's `diffusion.noise_schedule` takes."""


def betas_of(noise_schedule: str, diffusion_steps: int) -> np.ndarray:
    """Betas [T] of the schedule of that name. Raises ValueError for an unknown name, and for fewer than its `fewest_steps`."""
    schedule = look_up(SCHEDULES, noise_schedule, "noise_schedule")
    if diffusion_steps < schedule.fewest_steps:
        raise ValueError(f"a {noise_schedule} schedule needs at least {schedule.fewest_steps} diffusion steps "
                         f"(got {diffusion_steps})")
    return schedule.betas(diffusion_steps)


def alphas_cumprod_of(betas: np.ndarray) -> np.ndarray:
    """alpha_bar [T] of the forward process with these betas [T] (Ho et al. 2020, eq. 4)."""
    return np.cumprod(1 - betas)


def half_log_snr(alphas_cumprod: np.ndarray) -> np.ndarray:
    """lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)), half the log of the signal-to-noise ratio; infinity without noise."""
    with np.errstate(divide="ignore"):
        return 0.5 * (np.log(alphas_cumprod) - np.log1p(-alphas_cumprod))


def forward_weights(betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the image and of the noise in x_t, [T] each: sqrt(alpha_bar) and sqrt(1 - alpha_bar) (Ho et al. 2020, eq. 4)."""
    alphas_cumprod = alphas_cumprod_of(betas)
    return np.sqrt(alphas_cumprod), np.sqrt(1 - alphas_cumprod)


def respaced_betas(betas: np.ndarray, timesteps: list[int]) -> np.ndarray:
    """Betas [K] of the chain that visits only `timesteps` [K], ascending, and has the whole chain's alpha_bar at each of them.

    Nichol & Dhariwal 2021, eq. 19.
    """
    alphas_cumprod = alphas_cumprod_of(betas)[timesteps]
    before = np.append(1.0, alphas_cumprod[:-1])
    return 1 - alphas_cumprod / before
