"""Average losses over the steps between two logs, and over quarters of the noise levels."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from jobs.kinds.protocol import Inputs


class LossStatistics:
    """Sums of loss terms over steps and quarters. The sums stay on the device and are read only when they are logged."""

    def __init__(self, keys: Sequence[str], device: torch.device):
        self.keys, self.by_quarter = list(keys), False
        self.sums = torch.zeros(len(self.keys) + 1, 4, dtype=torch.float64, device=device)  # last row: numbers of examples

    def add(self, terms: Mapping[str, Tensor], inputs: Inputs) -> None:
        """Add loss terms [n] by key, times the importance weights of `inputs`. This does not wait for the device."""
        quarter, weights = inputs.quarter, inputs.weights
        self.by_quarter = quarter is not None
        rows = torch.stack([terms[key].detach() * weights for key in self.keys] + [torch.ones_like(weights)])
        self.sums.index_add_(1, torch.zeros_like(weights, dtype=torch.int64) if quarter is None else quarter, rows.double())

    def collect(self) -> dict[str, float]:
        """Return means over all ranks, and set the sums to zero.

        Keys are those of the terms, and KEY_q0 to KEY_q3 for the quarters that had examples.
        """
        if torch.distributed.get_world_size() > 1:
            torch.distributed.all_reduce(self.sums)
        *sums, counts = self.sums.tolist()
        self.sums.zero_()
        means = {}
        for key, quarters in zip(self.keys, sums, strict=True):
            means[key] = sum(quarters) / sum(counts)
            if self.by_quarter:
                means |= {f"{key}_q{q}": quarters[q] / counts[q] for q in range(4) if counts[q]}
        return means
