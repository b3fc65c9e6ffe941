"""Walk from noise to pictures: noise of each picture's own, progress, and the frames of a film."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from jobs.data.pictures import as_images
from jobs.kinds.protocol import Walk
from jobs.randomness import generator_for
from jobs.run.pace import Pace
from jobs.run.progress import Bar, note

LONG = 1000
"""Evaluations of the network for one picture that may be worth a shorter chain."""
FRAMES = 60
"""Of a film, at most."""


def randn_of_pictures(device: torch.device, seed: int, numbers: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Return randn(x) for x [n, ...] of the n pictures with these numbers.

    Each picture has a random stream of its own, so it depends neither on how many are made, nor on which are made together.
    """
    generators = [generator_for(device, seed, "make", number) for number in numbers]

    def randn(x: Tensor) -> Tensor:
        return torch.stack([torch.randn(x.shape[1:], generator=generator, device=device) for generator in generators])
    return randn


@dataclass
class Watch:
    """Sees every step of all walks: shows progress, counts evaluations, and keeps the frames of a film of the first walk."""

    bar: Bar
    film: bool
    hint: bool
    """Say of a long chain that it may be shorter."""
    evaluations: int = 0
    """Of the network for one picture, so far."""
    frames: list[np.ndarray] = field(default_factory=list)
    """uint8 [N, H, W, C] each: x at even distances, the first and the last step among them."""
    pace: Pace = field(default_factory=Pace)

    def follow(self, walk: Walk, batch: int, batches: int) -> Tensor:
        """Walk to the end, in batch number `batch` of `batches` like walks: the last x, [N, C, H, W]."""
        kept = set[int]()
        if not batch:
            self.evaluations += walk.evaluations
            if self.hint and walk.evaluations >= LONG:
                note(f"{walk.evaluations:,} evaluations of the network for each picture; --steps 50 takes fewer")
            self.bar.total = walk.steps * batches
            self.pace.restart()
            if self.film:
                kept = set(np.linspace(walk.steps, 0, min(FRAMES, walk.steps + 1)).round().astype(int).tolist())
        if kept and walk.start is not None:
            self.frames.append(as_images(walk.start))
        x = walk.start
        for step in walk.each:
            x, done = step.x, walk.steps * (batch + 1) - step.left
            if step.left in kept:
                self.frames.append(as_images(x))
            self.pace.add(done)
            self.bar.show(done, self.pace.rate())
        assert x is not None, "a walk has a step"
        return x
