"""The quarters of the timesteps, by which a classifier's accuracy is told: from little noise to nearly nothing but noise."""

from math import ceil


def quarters(steps: int) -> list[range]:
    """Return the timesteps of each quarter of a chain of `steps`: those t with the same 4 t // steps. A chain of fewer than four
    steps has no steps in some quarters; these are left out."""
    ends = [ceil(quarter * steps / 4) for quarter in range(5)]
    return [range(first, last) for first, last in zip(ends, ends[1:], strict=False) if first < last]
