"""Inception Score (Salimans et al. 2016) from streamed sums of class probabilities."""

from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

SPLIT = 5000  # images, as in guided-diffusion's evaluator; the last split has the rest, however few


class ClassSums:
    """For each split of SPLIT consecutive images: count, sum of p(y|x) and sum of sum_y p log p; float64."""

    def __init__(self, images: int, classes: int, device: torch.device):
        splits = -(-images // SPLIT)
        self.count = torch.zeros(splits, dtype=torch.float64, device=device)
        self.sum = torch.zeros(splits, classes, dtype=torch.float64, device=device)
        self.negative_entropy = torch.zeros(splits, dtype=torch.float64, device=device)

    def add(self, probabilities: Tensor, start: int) -> None:
        """`probabilities`: p(y|x) [n, classes] of the images from number `start` on."""
        probabilities = probabilities.double()
        split = torch.arange(start, start + len(probabilities), device=probabilities.device) // SPLIT
        self.count.index_add_(0, split, torch.ones_like(split, dtype=torch.float64))
        self.sum.index_add_(0, split, probabilities)
        self.negative_entropy.index_add_(0, split, torch.xlogy(probabilities, probabilities).sum(dim=1))

    def reduce(self) -> None:
        """Add up the sums of all ranks. Afterwards the main rank alone has the total."""
        for tensor in (self.count, self.sum, self.negative_entropy):
            dist.reduce(tensor, 0)


def compute(ours: ClassSums, theirs: None, check: Callable[[], None]) -> dict[str, dict]:
    """inception_score of samples, by their class probabilities alone."""
    return {"inception_score": inception_score(ours)}


def inception_score(sums: ClassSums) -> dict:
    """value: the mean over splits of exp E KL(p(y|x) || p(y)), at least 1; standard_deviation over splits, None for one split."""
    marginal = sums.sum / sums.count[:, None]
    divergence = sums.negative_entropy / sums.count - torch.xlogy(marginal, marginal).sum(dim=1)
    scores = divergence.exp().cpu().numpy()
    return {"value": float(scores.mean()), "standard_deviation": float(np.std(scores)) if len(scores) > 1 else None}
