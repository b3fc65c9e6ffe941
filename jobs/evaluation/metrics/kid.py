"""Kernel Inception Distance (Bińkowski et al. 2018): squared maximum mean discrepancy under a polynomial kernel."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

SUBSET = 1000  # rows of the smaller set in a subset, as for published values
LEAST_SUBSETS = 10


def compute(ours: Tensor, theirs: Tensor, check: Callable[[], None]) -> dict[str, dict]:
    """kid of samples [N, D] against a reference [M, D]."""
    return {"kid": kernel_distance(ours, theirs)}


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """k(x, y) = (x.y / D + 1)^3 between the rows of x [n, D] and y [m, D]: [n, m]."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def squared_discrepancy(x: Tensor, y: Tensor) -> float:
    """The unbiased estimate for x [n, D] and y [m, D], which may be negative. No row is compared with itself (U-statistic)."""
    n, m = len(x), len(y)
    xx, yy = kernel(x, x), kernel(y, y)
    return ((xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1)) - 2 * kernel(x, y).mean()).item()


def kernel_distance(ours: Tensor, theirs: Tensor, seed: int = 0) -> dict:
    """value and standard_error of KID between features [N, D] and [M, D].

    Both sets are split at random into equally many disjoint subsets: so many that each has SUBSET rows of the smaller set,
    but LEAST_SUBSETS at least. The value is the mean of the subsets' unbiased estimates. Disjoint subsets are independent,
    so their spread gives the standard error of the mean; the spread of overlapping subsets does not. Raises ValueError for
    fewer than two rows.
    """
    smaller = min(len(ours), len(theirs))
    if smaller < 2:
        raise ValueError("kid needs at least two images on either side")
    subsets = max(smaller // SUBSET, min(LEAST_SUBSETS, smaller // 2))
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.tensor_split(rows[torch.randperm(len(rows), generator=generator).to(rows.device)], subsets)
             for rows in (ours, theirs)]
    estimates = torch.tensor([squared_discrepancy(x.double(), y.double()) for x, y in zip(*parts, strict=True)],
                             dtype=torch.float64)
    error = estimates.std().item() / math.sqrt(subsets) if subsets > 1 else None
    return {"value": estimates.mean().item(), "standard_error": error,
            "note": f"unbiased, mean of {subsets} disjoint subsets of {len(ours) // subsets:,} samples against "
                    f"{len(theirs) // subsets:,} of the reference"}
