"""Give each rank its share of the global batch of each step. The global batch does not depend on the number of ranks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from jobs.data.dataset import ImageData, load_batch
from jobs.data.order import batch_indices, crop_windows, flip_mask
from jobs.data.pictures import cropped, mirrored, to_x
from jobs.kinds.protocol import Examples
from jobs.parallel.group import Group
from jobs.spec.sections import Spec


def share_of(group: Group, batch_size: int) -> slice:
    """Return this rank's examples of a global batch."""
    share = batch_size // group.world_size
    return slice(group.rank * share, (group.rank + 1) * share)


class Batches:
    """The batches of one rank. A thread reads the images of the next step while this step computes.

    `on_device`: keep all images in the device's memory, uint8, and select them there; None: where `fits` says so.
    """

    def __init__(self, spec: Spec, data: ImageData, group: Group, on_device: bool | None = None):
        self.spec, self.data, self.group = spec, data, group
        self.share = share_of(group, spec.train.batch_size)
        self.images = None
        if fits(data, group.device) if on_device is None else on_device:
            self.images = torch.from_numpy(np.ascontiguousarray(data.images)).to(group.device)

    def __call__(self, start: int, stop: int) -> Iterator[Examples]:
        """Yield the examples of the steps `start` to `stop` - 1, counted from 0."""
        with ThreadPoolExecutor(1) as reader:
            upcoming = reader.submit(self._read, start)
            for step in range(start, stop):
                read = upcoming.result()
                if step + 1 < stop:
                    upcoming = reader.submit(self._read, step + 1)
                yield self._assemble(*read)

    def _read(self, step: int) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Return images uint8 [n, C, H, W], or indices [n] where images are on the device; which to mirror [n]; their windows
        [n, 3]; labels [n]."""
        train, data, augment = self.spec.train, self.data, self.spec.data
        indices = batch_indices(len(data), train.batch_size, step, train.seed)[self.share]
        flip = self._pinned(flip_mask(train.batch_size, step, train.seed)[self.share]) if augment.random_flip else None
        windows = None
        if augment.random_crop:
            windows = self._pinned(crop_windows(train.batch_size, step, train.seed, augment.image_size)[self.share])
        labels = self._pinned(data.labels[indices]) if augment.class_cond and data.labels is not None else None
        images = load_batch(data, indices) if self.images is None else indices
        return self._pinned(images), flip, windows, labels

    def _assemble(self, images: Tensor, flip: Tensor | None, windows: Tensor | None, labels: Tensor | None) -> Examples:
        images = self._send(images)
        if self.images is not None:
            images = self.images[images].permute(0, 3, 1, 2).contiguous()
        x = to_x(mirrored(images, None if flip is None else self._send(flip)))
        if windows is not None:
            x = cropped(x, self._send(windows))
        return Examples(x, None if labels is None else self._send(labels))

    def _pinned(self, array: np.ndarray) -> Tensor:
        """Return the array in page-locked memory, which a GPU reads while this process continues."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self.group.device.type == "cuda" else tensor

    def _send(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.group.device, non_blocking=True)


def fits(data: ImageData, device: torch.device) -> bool:
    """Return whether the images may stay on the device: a GPU, of whose memory they take at most an eighth."""
    return device.type == "cuda" and data.images.nbytes <= torch.cuda.get_device_properties(device).total_memory / 8
