"""Features of single images, gathered from all ranks in the order of the images."""

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from jobs.parallel.group import Group


class Rows:
    """Pool features of all of `count` images, or of `most` evenly spread ones, as far as they are in this rank's batches."""

    def __init__(self, count: int, most: int, width: int, batch_size: int):
        self.count, self.batch_size = count, batch_size
        self.kept = spread(count, most)
        self.own = [torch.zeros(0, width)]

    def add(self, pool: Tensor, start: int) -> None:
        """pool [n, D] of the images from number `start` on."""
        self.own.append(pool[_between(self.kept, start, start + len(pool)) - start].float().cpu())

    def to_main(self, group: Group) -> Tensor | None:
        """float32 [n, D] of all ranks on the main rank, on the CPU; None on the others.

        No rank sends the numbers of its images: the main rank knows them from how batches are shared.
        """
        own = torch.cat(self.own)
        if not group.is_main:
            if len(own):
                dist.send(own, 0)
            return None
        table = torch.empty(len(self.kept), own.shape[1])
        for rank in range(group.world_size):
            numbers = self._numbers_of(rank, group.world_size)
            rows = own
            if rank:
                rows = torch.empty(len(numbers), own.shape[1])
                if len(numbers):
                    dist.recv(rows, rank)
            table[torch.from_numpy(np.searchsorted(self.kept, numbers))] = rows
        return table

    def _numbers_of(self, rank: int, world_size: int) -> np.ndarray:
        """Numbers of the kept images in the batches of `rank`, ascending."""
        starts = own_starts(self.count, self.batch_size, rank, world_size)
        return np.concatenate([self.kept[:0], *(
            _between(self.kept, start, min(start + self.batch_size, self.count)) for start in starts)])


def own_starts(count: int, batch_size: int, rank: int, world_size: int) -> range:
    """Numbers of the first images of the batches of `rank`: ranks take batches in turn."""
    return range(rank * batch_size, count, batch_size * world_size)


def spread(count: int, most: int) -> np.ndarray:
    """Ascending indices int64 of all of `count` images, or of `most` evenly spread ones."""
    return np.arange(count) if count <= most else np.arange(most) * count // most


def _between(kept: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Those of ascending `kept` from `start` up to, not including, `stop`."""
    return kept[np.searchsorted(kept, start):np.searchsorted(kept, stop)]
