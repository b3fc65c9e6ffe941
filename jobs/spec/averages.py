"""The moving averages that training keeps: their names and rates, their snapshots, and which others these give. No torch.

Averages of train.ema_rate have one rate throughout. Those of train.ema_sigma_rel are power-function averages
(diffusion/posthoc_ema.py): snapshots of them, evenly over training, give averages of other lengths after training.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil

from diffusion.posthoc_ema import LARGEST_SIGMA_REL, Profile, beta, combinations, gamma_of
from jobs.quantities import plural

TOLERANCE = 0.05
"""How far the profile of a combination of snapshots may be from the asked one (2-norm, relative). The weights agree better, by
an order of magnitude or so, because they move slowly."""
POWER = "sigma_rel-"
_SCALE = [step / 200 for step in range(1, ceil(LARGEST_SIGMA_REL * 200))]
"""The values of sigma_rel that messages look at: 0.005, 0.01, ... 0.285."""


def power_name(sigma_rel: float) -> str:
    """Return the name of a power-function average, such as "sigma_rel-0.05"."""
    return f"{POWER}{sigma_rel}"


def average_names(ema_rate: Sequence[float], ema_sigma_rel: Sequence[float]) -> list[str]:
    """Return the names of all averages that training keeps, such as "0.9999" and "sigma_rel-0.05"."""
    return [*map(str, ema_rate), *map(power_name, ema_sigma_rel)]


def rate_at(name: str, step: int) -> float:
    """Return the share of itself that the average `name` keeps in the update of step `step` (from 0)."""
    if name.startswith(POWER):
        return beta(step + 1, gamma_of(float(name.removeprefix(POWER))))
    return float(name)


def described(name: str | None) -> dict[str, str]:
    """Return what the metadata of a file of weights say of their average; None: the weights as trained."""
    if name is not None and name.startswith(POWER):
        return {"ema_sigma_rel": name.removeprefix(POWER)}
    return {"ema_rate": name or ""}


def snapshot_steps(iterations: int, snapshots: int) -> list[int]:
    """Return the training steps after which snapshots are kept: evenly over training, the last one among them."""
    return list(dict.fromkeys(-(-iterations * number // snapshots) for number in range(1, snapshots + 1)))


@lru_cache(maxsize=1000)
def combination(steps: tuple[int, ...], tracked: tuple[float, ...], sigma_rel: float) -> list[float]:
    """Return the coefficients that make the average `sigma_rel` after the last of `steps` of those known after each of `steps`.

    `tracked` are the known ones (sigma_rel). Coefficients stand in the order of `steps`, and for each step in that of `tracked`.
    Raises ValueError, in words that follow the name of a key, where the best combination is another average.
    """
    known = [Profile(step, each) for step in steps for each in tracked]
    target = Profile(steps[-1], sigma_rel)
    (found,) = combinations(known, [target])
    if found.error > TOLERANCE:
        raise ValueError(f"{sigma_rel}: {plural(len(steps), 'snapshot')} of train.ema_sigma_rel {list(tracked)}, up to step "
                         f"{steps[-1]}, give {_given(known, tracked)}; more train.ema_snapshots give more")
    return found.shares


def _given(known: Sequence[Profile], tracked: Sequence[float]) -> str:
    """Return the lengths that the known profiles give, such as "0.03 to 0.23"."""
    scale = sorted({*_SCALE, *tracked})
    targets = [Profile(known[-1].t, sigma_rel) for sigma_rel in scale]
    ranges: list[list[float]] = [[]]
    for target, found in zip(targets, combinations(known, targets), strict=True):
        if found.error <= TOLERANCE:
            ranges[-1].append(target.sigma_rel)
        elif ranges[-1]:
            ranges.append([])
    return " or ".join(f"{each[0]} to {each[-1]}" if len(each) > 1 else f"{each[0]}" for each in ranges if each)


def average_problems(iterations: int, tracked: Sequence[float], snapshots: int, sigma_rel: float,
                     steps: Sequence[int]) -> list[str]:
    """Return why a training of that many iterations will not have the average `sigma_rel` after each of the steps `steps`."""
    if not tracked:
        return [f"{sigma_rel}: needs averages that training tracks; give train.ema_sigma_rel, such as [0.05, 0.1]"]
    found = []
    for step in steps if sigma_rel not in tracked else ():
        # The checkpoint of the step itself has the tracked averages, too.
        known = [each for each in snapshot_steps(iterations, snapshots) if each < step]
        try:
            combination((*known, step), tuple(tracked), sigma_rel)
        except ValueError as error:
            found.append(str(error))
    return found
