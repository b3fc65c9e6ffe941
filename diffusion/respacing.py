"""Shorter sampling chains: the timesteps that a chain keeps of the T that the network was trained on.

No torch: a login node checks specs.
Sources: Nichol & Dhariwal 2021, section 4 (strided sampling); Song et al. 2021 (DDIM) for `ddimN` and `quadN`; Lu et al. 2022
(DPM-Solver) for `logsnrN`.
"""

import re
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from diffusion.schedules import alphas_cumprod_of, betas_of, half_log_snr

LOWEST_LAMBDA = -5.1
"""Of the first step of `logsnrN`, at least. The last steps of a cosine schedule have far lower ones: a grid from there would
spend its steps where nothing of the image shows yet."""

LONGEST_SHOWN = 60
"""Characters of a text that a message repeats."""


def space_timesteps(diffusion_steps: int, timestep_respacing: str, noise_schedule: str) -> list[int]:
    """The timesteps that the chain keeps, ascending, out of 0 .. diffusion_steps - 1.

    `timestep_respacing` is one of
      ""          all timesteps;
      "250"       250 evenly spaced timesteps, with the first and the last;
      "10,15,20"  cut the chain into three equal sections; take 10, 15 and 20 evenly spaced timesteps from them;
      "ddim50"    every k-th timestep from 0 on, for the whole number k that gives exactly 50;
      "logsnr20"  the timesteps nearest to 20 even steps of lambda = log(alpha / sigma), from the last timestep whose lambda is at
                  least LOWEST_LAMBDA down to 0; fewer where one is the nearest to two;
      "quad20"    the whole part of c * i ** 2 for i = 0 .. 19, from 0 to the last; fewer where two are equal.
    `noise_schedule`, a name of `schedules.SCHEDULES`, is read for logsnr alone. Raises ValueError for other text, and for a chain
    that does not exist; the message names the nearest that do.
    """
    if timestep_respacing == "":
        return list(range(diffusion_steps))
    if named := re.match("|".join(NAMED), timestep_respacing):
        wanted = _count(timestep_respacing[named.end():], timestep_respacing)
        return NAMED[named[0]](diffusion_steps, wanted, noise_schedule)
    counts = [_count(part, timestep_respacing) for part in timestep_respacing.split(",")]
    return _sections(diffusion_steps, counts)


def _count(text: str, timestep_respacing: str) -> int:
    if not re.fullmatch(r" *0{0,9}[1-9][0-9]{0,17} *", text, re.ASCII):  # the text names folders, which have at most 255 bytes
        shown = timestep_respacing if len(timestep_respacing) <= LONGEST_SHOWN else f"{timestep_respacing[:LONGEST_SHOWN]}..."
        raise ValueError(f"{shown!r} is not a respacing; write \"250\", \"10,15,20\", \"ddim50\", \"logsnr20\" or \"quad20\"")
    return int(text)


def _log_snr(diffusion_steps: int, wanted: int, noise_schedule: str) -> list[int]:
    if wanted > diffusion_steps:
        raise ValueError(f"logsnr{wanted}: there are {diffusion_steps} steps to choose from")
    lambdas = lambdas_of(noise_schedule, diffusion_steps)
    usable = lambdas[lambdas >= LOWEST_LAMBDA]
    if not len(usable):
        raise ValueError(f"logsnr{wanted}: no step of a {noise_schedule} schedule with {diffusion_steps} steps has a lambda of "
                         f"{LOWEST_LAMBDA} or more")
    grid, rising = np.linspace(usable[-1], usable[0], wanted), usable[::-1]
    above = np.searchsorted(rising, grid).clip(1, max(len(rising) - 1, 1))  # the first that is not below, or else the last
    below = above - 1
    above = above.clip(max=len(rising) - 1)
    nearest = np.where(grid - rising[below] <= rising[above] - grid, below, above)
    return sorted({len(rising) - 1 - int(place) for place in nearest})


@lru_cache(maxsize=4)
def lambdas_of(noise_schedule: str, diffusion_steps: int) -> np.ndarray:
    """Half the log of the signal-to-noise ratio at each step, [T], falling. Kept: a check of a spec asks several times."""
    return half_log_snr(alphas_cumprod_of(betas_of(noise_schedule, diffusion_steps)))


def _quadratic(diffusion_steps: int, wanted: int, noise_schedule: str) -> list[int]:
    if wanted > diffusion_steps:
        raise ValueError(f"quad{wanted}: there are {diffusion_steps} steps to choose from")
    last, ends = diffusion_steps - 1, max(wanted - 1, 1) ** 2
    return sorted({last * index * index // ends for index in range(wanted)}) if wanted > 1 else [last]


def _fixed_stride(diffusion_steps: int, wanted: int, noise_schedule: str) -> list[int]:
    for stride in range(1, diffusion_steps + 1):
        if len(range(0, diffusion_steps, stride)) == wanted:
            return list(range(0, diffusion_steps, stride))
    possible = sorted({len(range(0, diffusion_steps, stride)) for stride in range(1, diffusion_steps + 1)})
    below = max((count for count in possible if count < wanted), default=None)
    above = min((count for count in possible if count > wanted), default=None)
    nearest = " and ".join(f"ddim{count}" for count in (below, above) if count is not None)
    raise ValueError(f"ddim{wanted}: no whole stride through {diffusion_steps} steps gives {wanted}; nearest are {nearest}")


def _sections(diffusion_steps: int, counts: list[int]) -> list[int]:
    size, extra = divmod(diffusion_steps, len(counts))
    kept: list[int] = []
    start = 0
    for index, count in enumerate(counts):
        section = size + (index < extra)  # the first sections take the remainder
        if section < count:
            raise ValueError(f"section {index + 1} of {len(counts)} has {section} of the {diffusion_steps} steps; "
                             f"{count} cannot be taken from it")
        # Published chains were made by adding up floats and rounding half to even: this decides ties as they did.
        stride = 1 if count == 1 else (section - 1) / (count - 1)
        position = 0.0
        for _ in range(count):
            kept.append(start + round(position))
            position += stride
        start += section
    return kept


NAMED: dict[str, Callable[[int, int, str], list[int]]] = {"ddim": _fixed_stride, "logsnr": _log_snr, "quad": _quadratic}
"""By the word in front of the number: timesteps(diffusion_steps, number, noise_schedule)."""
