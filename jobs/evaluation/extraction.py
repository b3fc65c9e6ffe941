"""One pass of a feature extractor over a set of images, shared by all ranks; the result is what metrics are computed from."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from jobs.errors import UserError
from jobs.evaluation.extractor import Parts
from jobs.evaluation.features import Features
from jobs.evaluation.metrics.frechet import Moments
from jobs.evaluation.metrics.inception_score import ClassSums
from jobs.evaluation.metrics.label_accuracy import LabelHits
from jobs.evaluation.rows import Rows, own_starts
from jobs.finite import not_finite
from jobs.parallel.group import Group, any_rank, from_ranks
from jobs.parallel.interruption import Stopped
from jobs.randomness import derived_seed
from jobs.spec.metrics import output_of


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of one set of images; None for a part that was not wanted. Complete on the main rank only."""

    pool: Moments | None
    spatial: Moments | None
    probabilities: ClassSums | None
    rows: Tensor | None
    """Pool features float32 [n, D] of single images, on the CPU."""
    labels: LabelHits | None = None
    flat: int = 0
    """Number of images in which all values are equal."""


@dataclass(frozen=True, eq=False)
class _OwnSums:
    """The statistics of the batches of one rank."""

    pool: Moments | None
    spatial: Moments | None
    probabilities: ClassSums | None
    rows: Rows | None
    labels: LabelHits | None

    def add(self, found: Parts, start: int, of_group: Tensor) -> None:
        """Features of the images from number `start` on, and the group [n] of each image."""
        if self.pool:
            self.pool.add(found["pool"], of_group)
        if self.spatial:
            self.spatial.add(found["spatial"])
        if self.probabilities:
            self.probabilities.add(found["probabilities"], start)
        if self.rows:
            self.rows.add(found["pool"], start)
        if self.labels:
            self.labels.add(found["probabilities"], start)

    def on_main(self, group: Group) -> Statistics:
        """The statistics of all ranks' batches."""
        for sums in (self.pool, self.spatial, self.probabilities, self.labels):
            if sums:
                sums.reduce()
        return Statistics(self.pool, self.spatial, self.probabilities, self.rows.to_main(group) if self.rows else None,
                          self.labels)


def extract(images: np.ndarray, features: Features, wanted: Collection[str], group: Group, batch_size: int, *,
            groups: int = 1, most_rows: int = 0, labels: np.ndarray | None = None,
            on_batch: Callable[[], None] = lambda: None) -> Statistics:
    """Statistics of uint8 [N, H, W, C] `images`, an array or an object that slices like one. The ranks take batches in turn.

    `wanted`: among pool, spatial, probabilities, rows, and labels, for which `labels` are int64 [N]. `groups`: the moments of
    pool are kept by this many random groups of equal size. `most_rows`: rows are kept of all images, or of this many evenly
    spread ones. `on_batch` is called before every batch; where it raises Stopped on one rank, all ranks raise Stopped. Memory
    does not grow with N, except for rows. Raises UserError that names the images whose features are not finite.
    """
    count, device, widths = len(images), group.device, features.widths
    own = _OwnSums(
        pool=Moments(widths["pool"], device, groups) if "pool" in wanted else None,
        spatial=Moments(widths["spatial"], device) if "spatial" in wanted else None,
        probabilities=ClassSums(count, widths["probabilities"], device) if "probabilities" in wanted else None,
        rows=Rows(count, most_rows, widths["pool"], batch_size) if "rows" in wanted else None,
        labels=LabelHits(torch.from_numpy(labels), device) if labels is not None and "labels" in wanted else None)
    of_group = random_groups(count, groups).to(device)
    parts = {output_of(part) for part in wanted}
    stopped, flat = False, 0
    try:
        with torch.no_grad():
            for start in own_starts(count, batch_size, group.rank, group.world_size):
                on_batch()
                stop = min(start + batch_size, count)
                batch = torch.from_numpy(np.array(images[start:stop])).to(device).permute(0, 3, 1, 2)
                found = features.extract(batch, parts)
                if problem := not_finite({part: found[part] for part in parts if part in found}):
                    raise UserError(f"{features.name}: its features of images {start} to {stop - 1} are not finite ({problem})")
                own.add(found, start, of_group[start:stop])
                flat += int((batch.flatten(1) == batch.flatten(1)[:, :1]).all(dim=1).sum())
    except Stopped:
        stopped = True
    if any_rank(stopped):
        raise Stopped
    return replace(own.on_main(group), flat=sum(from_ranks(flat)))


def own_batches(count: int, batch_size: int, group: Group) -> int:
    """How many batches of `count` images fall to this rank."""
    return len(own_starts(count, batch_size, group.rank, group.world_size))


def random_groups(count: int, groups: int) -> Tensor:
    """The group of each image, int64 [count]: `groups` groups whose sizes differ by one at most.

    Groups are not made by position, because files are often sorted by class.
    """
    generator = torch.Generator().manual_seed(derived_seed("groups", count))
    return torch.arange(count)[torch.randperm(count, generator=generator)] * groups // max(count, 1)
