"""The share of labelled samples in which the classifier of the features sees the requested class.

As guidance is judged in Dhariwal & Nichol 2021 and Ho & Salimans 2022, with another classifier than the one that guides: a
classifier that guides always sees what it asked for.
"""

import math
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

Z = 1.96  # 95 % of a normal distribution lie within so many standard deviations


class LabelHits:
    """Counts the images [hits, all] whose most probable class is their label. `labels`: int64 [N], of all images."""

    def __init__(self, labels: Tensor, device: torch.device):
        self.labels = labels.to(device)
        self.counts = torch.zeros(2, dtype=torch.float64, device=device)

    def add(self, probabilities: Tensor, start: int) -> None:
        """`probabilities`: p(y|x) [n, classes] of the images from number `start` on."""
        seen = probabilities.argmax(dim=1)
        hits = (seen == self.labels[start:start + len(seen)]).sum()
        self.counts += torch.stack([hits, hits.new_tensor(len(seen))])

    def reduce(self) -> None:
        """Add up the counts of all ranks. Afterwards the main rank alone has the total."""
        dist.reduce(self.counts, 0)


def compute(ours: LabelHits, theirs: None, check: Callable[[], None]) -> dict[str, dict]:
    """label_accuracy of samples, by their labels and class probabilities."""
    return {"label_accuracy": share_with_interval(*(int(count) for count in ours.counts.tolist()))}


def share_with_interval(hits: int, count: int) -> dict:
    """value: hits / count, in [0, 1]; interval: Wilson's (1927) of 95 %, which is no point where the share is 0 or 1."""
    share, spread = hits / count, Z ** 2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return {"value": share, "interval": [max(middle - half, 0.0), min(middle + half, 1.0)]}
