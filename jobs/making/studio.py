"""The network with its weights, and how pictures go through it in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from jobs.data.pictures import to_x
from jobs.kinds.protocol import Walk
from jobs.making.prepare import Job
from jobs.making.walking import Watch, randn_of_pictures

MOST_AT_ONCE, PIXELS_AT_ONCE = 64, 65_536  # pictures in one batch of the network, and their pixels


@dataclass(frozen=True, eq=False)
class Studio:
    """A job, the network with its weights, and who watches."""

    job: Job
    network: nn.Module
    guide: nn.Module | None
    """The network that sample.guidance needs besides."""
    device: torch.device
    watch: Watch

    def labels(self, numbers: Sequence[int], per_label: int = 1) -> np.ndarray | None:
        """The classes of the pictures with these numbers: those of --labels, or all of them, take turns.

        `per_label`: so many pictures have a class, before the next one's turn.
        """
        named = self.job.labels
        if self.job.classes is None:
            return None
        if named is None:  # as in the sampling stage
            return np.array(numbers, dtype=np.int64) % self.job.classes
        return np.array([named[number // per_label % len(named)] for number in numbers], dtype=np.int64)

    def noise_of(self, seed: int) -> Tensor:
        """The noise from which `--seed` makes its first picture, [1, C, S, S]."""
        data = self.job.spec.data
        randn = randn_of_pictures(self.device, seed, [0])
        return randn(torch.empty(1, data.channels, data.image_size, data.image_size, device=self.device))

    def randn(self, numbers: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """The random stream of the pictures with these numbers."""
        assert self.job.seed is not None
        return randn_of_pictures(self.device, self.job.seed, numbers)

    def copies(self, name: str, count: int) -> Tensor:
        """The given picture of that name, `count` times: [count, C, S, S] in [-1, 1]."""
        pixels = torch.from_numpy(np.array(self.job.given[name].pixels)).to(self.device)  # a copy: Pillow lends its own
        return to_x(pixels).permute(2, 0, 1).repeat(count, 1, 1, 1)

    def walk(self, count: int, begin: Callable[[list[int]], Walk]) -> Tensor:
        """Walk with the pictures 0 .. count - 1, in batches; `begin(numbers)` begins one. The results are [count, C, S, S]."""
        size = max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // self.job.spec.data.image_size ** 2))
        batches = [list(range(start, min(start + size, count))) for start in range(0, count, size)]
        return torch.cat([self.watch.follow(begin(numbers), batch, len(batches)).cpu() for batch, numbers in enumerate(batches)])
