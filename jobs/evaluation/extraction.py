"""One pass of a feature extractor over a set of images, shared by all ranks, into what metrics rest on."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from jobs.evaluation.features import Features
from jobs.evaluation.metrics.frechet import Moments
from jobs.evaluation.metrics.inception_score import ClassSums
from jobs.parallel.group import Group, any_rank
from jobs.parallel.interruption import Stopped
from jobs.randomness import derived_seed


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of one set of images; what was not wanted is None. Complete on the main rank only."""

    pool: Moments | None
    spatial: Moments | None
    probabilities: ClassSums | None
    rows: Tensor | None
    """Pool features float32 [n, D] of single images, on the CPU."""


def extract(images: np.ndarray, features: Features, wanted: Collection[str], group: Group, batch_size: int, *,
            groups: int = 1, most_rows: int = 0, on_batch: Callable[[], None] = lambda: None) -> Statistics:
    """Statistics of uint8 [N, H, W, C] `images`, an array or whatever slices like one; each rank takes every so many batches.

    `wanted`: among pool, spatial, probabilities and rows. `groups`: random ones of equal size that the moments of pool
    are kept by. `most_rows`: rows are of all images, or of so many evenly spread ones. `on_batch` is called before every
    batch; where it raises Stopped on one rank, this does on all. Memory does not grow with N, but for the rows.
    """
    count, device = len(images), group.device
    pool, spatial = (Moments(features.widths[part], device, groups if part == "pool" else 1) if part in wanted else None
                     for part in ("pool", "spatial"))
    classes = ClassSums(count, features.widths["probabilities"], device) if "probabilities" in wanted else None
    of_group = _random_groups(count, groups).to(device)
    kept = _spread(count, most_rows) if "rows" in wanted else np.zeros(0, dtype=np.int64)
    parts = {"pool" if part == "rows" else part for part in wanted}
    rows: list[Tensor] = []
    stopped = False
    try:
        with torch.no_grad():
            for start in _own_starts(count, batch_size, group.rank, group.world_size):
                on_batch()
                stop = min(start + batch_size, count)
                batch = torch.from_numpy(np.array(images[start:stop])).to(device).permute(0, 3, 1, 2)
                found = features.extract(batch, parts)
                if pool:
                    pool.add(found["pool"], of_group[start:stop])
                if spatial:
                    spatial.add(found["spatial"])
                if classes:
                    classes.add(found["probabilities"], start)
                if "rows" in wanted:
                    rows.append(found["pool"][_between(kept, start, stop) - start].float().cpu())
    except Stopped:
        stopped = True
    if any_rank(stopped):
        raise Stopped
    for sums in (pool, spatial, classes):
        if sums:
            sums.reduce()
    gathered = _rows_to_main(rows, kept, count, batch_size, features, group) if "rows" in wanted else None
    return Statistics(pool, spatial, classes, gathered)


def _own_starts(count: int, batch_size: int, rank: int, world_size: int) -> range:
    """First images of the batches of `rank`."""
    return range(rank * batch_size, count, batch_size * world_size)


def own_batches(count: int, batch_size: int, group: Group) -> int:
    """How many batches of `count` images fall to this rank."""
    return len(_own_starts(count, batch_size, group.rank, group.world_size))


def _random_groups(count: int, groups: int) -> Tensor:
    """Which of `groups` groups of equal size, to within one, each image is in: int64 [count]. Not by position: files are
    often sorted by class."""
    generator = torch.Generator().manual_seed(derived_seed("groups", count))
    return torch.arange(count)[torch.randperm(count, generator=generator)] * groups // max(count, 1)


def _spread(count: int, most: int) -> np.ndarray:
    """Ascending indices int64 of all of `count` images, or of `most` evenly spread ones."""
    return np.arange(count) if count <= most else np.arange(most) * count // most


def _between(kept: np.ndarray, start: int, stop: int) -> np.ndarray:
    return kept[np.searchsorted(kept, start):np.searchsorted(kept, stop)]


def _rows_to_main(own: list[Tensor], kept: np.ndarray, count: int, batch_size: int, features: Features,
                  group: Group) -> Tensor | None:
    """All ranks' rows in the order of `kept`, on the main rank; each knows from arithmetic which rows another has."""
    mine = torch.cat([torch.zeros(0, features.widths["pool"]), *own])
    if not group.is_main:
        if len(mine):
            dist.send(mine, 0)
        return None
    table = torch.empty(len(kept), features.widths["pool"])
    for rank in range(group.world_size):
        starts = _own_starts(count, batch_size, rank, group.world_size)
        theirs = np.concatenate([kept[:0], *(_between(kept, start, min(start + batch_size, count)) for start in starts)])
        rows = mine
        if rank:
            rows = torch.empty(len(theirs), features.widths["pool"])
            if len(theirs):
                dist.recv(rows, rank)
        table[torch.from_numpy(np.searchsorted(kept, theirs))] = rows
    return table
