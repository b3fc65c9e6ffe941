"""Improved precision and recall (Kynkäänniemi et al. 2019): the share of one set that lies in the manifold of the other."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

K = 3
_BLOCK = 2048  # rows compared with rows at a time: 32 MB of distances


def compute(ours: Tensor, theirs: Tensor, check: Callable[[], None]) -> dict[str, dict]:
    """precision and recall of samples [N, D] against a reference [M, D]."""
    return precision_and_recall(ours, theirs, check)


def precision_and_recall(ours: Tensor, theirs: Tensor, on_block: Callable[[], None] = lambda: None) -> dict[str, dict]:
    """precision and recall, each {"value": share in [0, 1]}, of samples `ours` [N, D] and a reference `theirs` [M, D].

    The manifold of a set is a ball around each row that reaches to the K-th nearest other row of the set. Precision is the
    share of the samples inside the reference's manifold; recall is the share of the reference inside the samples' manifold.
    `on_block` is called between blocks of the work. Raises ValueError for sets of K rows or fewer.
    """
    if min(len(ours), len(theirs)) <= K:
        raise ValueError(f"precision_recall needs more than {K} images on either side")
    return {"precision": {"value": _share_inside(ours, theirs, radii(theirs, on_block), on_block)},
            "recall": {"value": _share_inside(theirs, ours, radii(ours, on_block), on_block)}}


def radii(rows: Tensor, on_block: Callable[[], None] = lambda: None) -> Tensor:
    """Squared distance float64 [N] of each of `rows` [N, D] to the K-th nearest other row. Equal rows count as different rows."""
    found = []
    for x in rows.split(_BLOCK):
        nearest = x.new_full((len(x), 0), 0, dtype=torch.float64)
        for distances in _distances(x, rows, on_block):
            nearest = torch.cat([nearest, distances], dim=1)
            nearest = nearest.topk(min(K + 1, nearest.shape[1]), largest=False).values
        found.append(nearest[:, K])  # column 0 is the distance of the row to itself
    return torch.cat(found)


def _share_inside(rows: Tensor, others: Tensor, radius: Tensor, on_block: Callable[[], None]) -> float:
    """Share of `rows` that lie in the ball of at least one of `others`."""
    inside = 0
    for x in rows.split(_BLOCK):
        hit = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for distances, reach in zip(_distances(x, others, on_block), radius.split(_BLOCK), strict=True):
            hit |= (distances <= reach).any(dim=1)
        inside += int(hit.sum())
    return inside / len(rows)


def _distances(x: Tensor, rows: Tensor, on_block: Callable[[], None]) -> Iterator[Tensor]:
    """Squared distances float64 [n, block] of x [n, D] to each block of `rows`."""
    x = x.double()
    own = x.square().sum(dim=1, keepdim=True)
    for y in rows.split(_BLOCK):
        on_block()
        y = y.double()
        norms = own + y.square().sum(dim=1)
        distances = norms - 2 * x @ y.T
        # Equal rows must be at distance 0 exactly: the ball of a row with three copies has radius 0.
        yield torch.where(distances < 1e-12 * norms, 0.0, distances)
