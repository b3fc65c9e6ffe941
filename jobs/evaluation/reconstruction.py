"""Reconstructed images, for kinds whose network encodes and decodes: their FID tells what the decoder loses, with no prior."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from jobs.data.dataset import ImageData
from jobs.data.pictures import as_images, to_x
from jobs.kinds.protocol import ReconstructingModule
from jobs.parallel.group import Group
from jobs.spec.sections import Spec


def reconstructed_images(spec: Spec, data: ImageData) -> int:
    """Return how many images of data.path are reconstructed: as many as there are samples, so that the distances of the two
    compare, or all where there are fewer."""
    return min(spec.sample.num_samples, len(data))


class Reconstructions:
    """uint8 [N, H, W, C]: N images of a data set, evenly spread, as a network reconstructs them. Slices like an array, and
    computes a slice when it is asked for."""

    def __init__(self, spec: Spec, data: ImageData, network: Callable[[], nn.Module], module: ReconstructingModule, group: Group):
        count = reconstructed_images(spec, data)
        self.spec, self.data, self.load, self.module, self.group = spec, data, network, module, group
        self.rows = np.arange(count) * len(data) // count
        self.network: nn.Module | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> np.ndarray:
        if self.network is None:
            self.network = self.load()
        rows = self.rows[part]
        x = to_x(torch.from_numpy(np.array(self.data.images[rows])).to(self.group.device)).permute(0, 3, 1, 2)
        labels = self.data.labels[rows] if self.spec.data.class_cond and self.data.labels is not None else None
        return as_images(self.module.reconstruct(self.spec, self.network, x, labels))
