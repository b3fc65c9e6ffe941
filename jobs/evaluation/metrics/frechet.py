"""The Fréchet distance between normal distributions fitted to features (Heusel et al. 2017), in float64 from streamed sums."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed as dist
from torch import Tensor

_ROWS_AT_A_TIME = 1024
ROUNDING = 1e-3
"""Share of the sum of squares that rounding may take away: the roots of 2000 zero eigenvalues, each about 1e-8 of the largest."""


@dataclass(frozen=True, eq=False)
class GaussianFit:
    """A normal distribution fitted to features: mean [D] and covariance [D, D], float64."""

    mean: Tensor
    covariance: Tensor

    @cached_property
    def root(self) -> Tensor:
        """Symmetric square root of the covariance. Negative eigenvalues, which come from rounding, count as 0."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(ours: GaussianFit, theirs: GaussianFit) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    The trace of the root needs symmetric matrices only: tr (C1 C2)^(1/2) = tr (R C1 R)^(1/2) with R = C2^(1/2). The
    eigenvalues of R C1 R are real and not negative, however singular C1 and C2 are. Raises ValueError where the distance
    cannot be computed, is not finite, or is negative by more than rounding.
    """
    try:
        inner = torch.linalg.eigvalsh(theirs.root @ ours.covariance @ theirs.root)
    except torch.linalg.LinAlgError as error:
        raise ValueError("the covariances have no square root") from error
    parts = (ours.mean - theirs.mean).square().sum() + ours.covariance.trace() + theirs.covariance.trace()
    distance = (parts - 2 * inner.clamp(min=0).sqrt().sum()).item()
    if not -ROUNDING * parts.item() < distance < math.inf:  # NaN is not in between
        raise ValueError(f"the distance would be {distance:.4g}; no features have such covariances")
    return max(distance, 0.0)  # rounding can leave -1e-12 for equal distributions


class Moments:
    """Count, sum and sum of outer products of features [n, D], by group of examples. Memory does not grow with n."""

    def __init__(self, width: int, device: torch.device, groups: int = 1):
        self.groups = groups
        self.count = torch.zeros(groups, dtype=torch.float64, device=device)
        self.sum = torch.zeros(groups, width, dtype=torch.float64, device=device)
        self.outer = torch.zeros(groups, width, width, dtype=torch.float64, device=device)
        self.waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, features: Tensor, group: Tensor | None = None) -> None:
        """features [n, D]; `group` int64 [n] on the same device; None: all examples belong to group 0."""
        if group is None:
            group = torch.zeros(len(features), dtype=torch.int64, device=features.device)
        self.waiting.append((features.double(), group))
        # Each product reads and writes the whole [D, D] of a group: with few examples at a time, memory traffic would dominate.
        if sum(len(features) for features, _ in self.waiting) >= _ROWS_AT_A_TIME:
            self._add_waiting()

    def _add_waiting(self) -> None:
        if self.waiting:
            features, group = (torch.cat(parts) for parts in zip(*self.waiting, strict=True))
            self.waiting.clear()
            for number in group.unique().tolist():
                rows = features[group == number]
                self.count[number] += len(rows)
                self.sum[number] += rows.sum(dim=0)
                self.outer[number].addmm_(rows.T, rows)

    def reduce(self) -> None:
        """Add up the moments of all ranks. Afterwards the main rank alone has the total."""
        self._add_waiting()
        for tensor in (self.count, self.sum, self.outer):
            dist.reduce(tensor, 0)

    @property
    def examples(self) -> int:
        """Number of all examples."""
        self._add_waiting()
        return int(self.count.sum())

    def fitted(self, without: int | None = None) -> GaussianFit:
        """Mean and unbiased covariance of all examples, or of all but the group `without`.

        Raises ValueError for fewer than two examples, and for features that are not finite.
        """
        self._add_waiting()
        kept = [number for number in range(self.groups) if number != without]
        count, total, outer = self.count[kept].sum(), self.sum[kept].sum(dim=0), self.outer[kept].sum(dim=0)
        if count < 2:
            raise ValueError("a covariance needs at least two images")
        if not torch.isfinite(outer.trace()):
            raise ValueError("features are not finite (NaN or infinity) for some image")
        mean = total / count
        return GaussianFit(mean, (outer - count * torch.outer(mean, mean)) / (count - 1))
