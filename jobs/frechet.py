"""Fréchet distance between normal distributions fitted to features (Heusel et al. 2017), in float64 from streamed sums."""

import torch
import torch.distributed as dist
from torch import Tensor


class Moments:
    """Count, sum and sum of outer products of features, float64 on one device; constant memory in their number."""

    def __init__(self, device: torch.device):
        self.device = device
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.sum: Tensor | None = None
        self.outer: Tensor | None = None

    def add(self, features: Tensor) -> None:
        """features [n, D]."""
        features = features.double()
        if self.sum is None:
            width = features.shape[1]
            self.sum = torch.zeros(width, dtype=torch.float64, device=self.device)
            self.outer = torch.zeros(width, width, dtype=torch.float64, device=self.device)
        self.count += len(features)
        self.sum += features.sum(dim=0)
        self.outer.addmm_(features.T, features)

    def reduce(self, width: int) -> None:
        """Add up all ranks' moments; `width` D, for ranks that saw no features."""
        self.add(torch.zeros(0, width, device=self.device))
        for tensor in (self.count, self.sum, self.outer):
            dist.all_reduce(tensor)

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Mean [D] and unbiased covariance [D, D]. Raises ValueError for fewer than two examples."""
        if self.count < 2:
            raise ValueError("a covariance needs at least two images")
        mean = self.sum / self.count
        covariance = (self.outer - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return mean, covariance


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)); means [D], covariances [D, D], float64.

    The trace of the root through symmetric matrices only: tr (C1 C2)^(1/2) = tr (R C2 R)^(1/2) with R = C1^(1/2), whose
    eigenvalues are real and not negative however singular C1 and C2 are.
    """
    values, vectors = torch.linalg.eigh(covariance1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    inner = torch.linalg.eigvalsh(root @ covariance2 @ root)
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * inner.clamp(min=0).sqrt().sum()
    return max(distance.item(), 0.0)  # rounding can leave -1e-12 for equal distributions
