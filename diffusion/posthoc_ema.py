"""Averages of weights whose length is chosen after training (Karras et al. 2024, "post-hoc EMA").

A power-function average weighs the weights of update t by t^gamma. Its length is sigma_rel, the standard deviation of that
profile as a share of training. Training tracks some of them and keeps snapshots; an average of another length, at the update of
the last snapshot, is a combination of the snapshots.

Coefficients are computed by Python's float (IEEE double) in a fixed order, and powers by its decimal: libraries for linear
algebra, and C's pow, round differently on different processors. Thus equal snapshots give equal coefficients, to the bit.
No torch: a login node asks what snapshots can give.
"""

from collections.abc import Sequence
from decimal import Context, Decimal
from functools import lru_cache
from math import fsum, sqrt
from operator import mul
from typing import NamedTuple

LARGEST_SIGMA_REL = 12 ** -0.5
"""Of the plain mean of all weights, whose gamma is 0. Every sigma_rel is smaller."""
SMALLEST_SIGMA_REL = 1e-6
"""Below any use: the weights themselves in a training of a million updates. Far smaller ones overflow."""

_DIGITS = Context(prec=25)


class Profile(NamedTuple):
    """The power-function average of length `sigma_rel` after update `t` (1, 2, ...)."""

    t: float
    sigma_rel: float


@lru_cache(maxsize=1000)
def gamma_of(sigma_rel: float) -> float:
    """The exponent of the profile of that length: sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).

    Raises ValueError for a sigma_rel below SMALLEST_SIGMA_REL, or not below LARGEST_SIGMA_REL.
    """
    if not 0 < sigma_rel < LARGEST_SIGMA_REL:
        raise ValueError(f"{sigma_rel} is not between 0 and {LARGEST_SIGMA_REL:.4f}, the sigma_rel of the mean of all weights")
    if sigma_rel < SMALLEST_SIGMA_REL:
        raise ValueError(f"{sigma_rel} is below {SMALLEST_SIGMA_REL}, the smallest sigma_rel")
    # With g = gamma + 1: (g + 1)^2 (g + 2) sigma_rel^2 = g. The larger root is between 1 and 1 / sigma_rel, and the left side is
    # below the right one from 1 to the root: halve the interval until no number is between its ends.
    low, high = 1.0, 1 / sigma_rel
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if (middle + 1) ** 2 * (middle + 2) * sigma_rel ** 2 < middle else (low, middle)
    return middle - 1


def beta(t: int, gamma: float) -> float:
    """The rate of an average at update `t` (1, 2, ...): average <- beta * average + (1 - beta) * weights. beta(1) is 0."""
    return (1 - 1 / t) ** (gamma + 1)


def inner_product(one: Profile, other: Profile) -> float:
    """The integral over t of the product of two profiles, each of which has the integral 1."""
    early, late = (one, other) if one.t <= other.t else (other, one)
    gamma_early, gamma_late = gamma_of(early.sigma_rel), gamma_of(late.sigma_rel)
    return ((gamma_early + 1) * (gamma_late + 1) * _power(early.t / late.t, gamma_late)
            / ((gamma_early + gamma_late + 1) * late.t))


@lru_cache(maxsize=100_000)
def _power(base: float, exponent: float) -> float:
    return float(_DIGITS.power(Decimal(base), Decimal(exponent)))


class Combination(NamedTuple):
    """The combination of snapshots whose profile is nearest to that of a target."""

    shares: list[float]
    """The coefficient of each snapshot; their sum is 1."""
    error: float
    """How far the profile is from the target's: 2-norm, relative."""


def combinations(snapshots: Sequence[Profile], targets: Sequence[Profile]) -> list[Combination]:
    """The nearest combination (least squares) for each target.

    Raises ValueError where the snapshots do not determine it: two are equal, or nearly so.
    """
    gram: list[list[float]] = []
    for number, one in enumerate(snapshots):  # symmetric
        gram.append([row[number] for row in gram] + [inner_product(one, other) for other in snapshots[number:]])
    right = [[inner_product(snapshot, target) for target in targets] for snapshot in snapshots]
    solved, found = _solved(gram, right), []
    for index, target in enumerate(targets):
        total = fsum(row[index] for row in solved)
        shares, own = [row[index] / total for row in solved], inner_product(target, target)
        square = fsum([*(share * sum(map(mul, row, shares)) for share, row in zip(shares, gram, strict=True)),
                       *(-2 * share * row[index] for share, row in zip(shares, right, strict=True)), own])
        found.append(Combination(shares, sqrt(max(square, 0.0) / own)))
    return found


def _solved(matrix: Sequence[Sequence[float]], right: Sequence[Sequence[float]]) -> list[list[float]]:
    """The solutions [n, m] of a system [n, n] for m right-hand sides [n, m], by Gaussian elimination.

    The matrix holds inner products: it is symmetric and positive definite, so that pivoting gains nothing.
    """
    size = len(matrix)
    rows = [[*left, *values] for left, values in zip(matrix, right, strict=True)]
    for column in range(size):
        head = rows[column]
        if not abs(head[column]) > 1e-15 * max(abs(row[column]) for row in matrix):
            raise ValueError("two snapshots are of equal averages, or nearly so")
        for row in rows[column + 1:]:
            factor = row[column] / head[column]
            row[column:] = [value - factor * above for value, above in zip(row[column:], head[column:], strict=True)]
    found: list[list[float]] = []  # from the last row up
    for index in reversed(range(size)):
        row, below = rows[index], found[::-1]
        found.append([(value - fsum(share * solved[side] for share, solved in zip(row[index + 1:size], below, strict=True)))
                      / row[index] for side, value in enumerate(row[size:])])
    return found[::-1]
