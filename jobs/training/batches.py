"""What each rank trains on at each step: its share of a global batch that does not depend on the number of ranks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffusion.timestep_samplers import TimestepSampler
from jobs.data.dataset import ImageData, load_batch
from jobs.data.order import batch_indices, flip_mask
from jobs.data.pictures import to_x
from jobs.parallel.group import Group
from jobs.randomness import generator_for
from jobs.spec.sections import Spec


@dataclass(frozen=True)
class Batch:
    """n examples of one rank: x_start and noise [n, C, H, W], t int64 [n], weights [n], labels int64 [n] or None."""

    x_start: Tensor
    noise: Tensor
    t: Tensor
    weights: Tensor
    labels: Tensor | None

    @property
    def model_kwargs(self) -> dict[str, Tensor]:
        return {} if self.labels is None else {"y": self.labels}

    def split(self, size: int) -> list["Batch"]:
        """Microbatches of `size` examples."""
        columns = [(None,) * (len(self.t) // size) if column is None else column.split(size)
                   for column in (self.x_start, self.noise, self.t, self.weights, self.labels)]
        return [Batch(*parts) for parts in zip(*columns)]


class Batches:
    """The batches of one rank from step `start` on; images of the next step are read while this one computes.

    `on_device`: keep all images in the device's memory, uint8, and look them up there; None: on a GPU that has the room.
    """

    def __init__(self, spec: Spec, data: ImageData, sampler: TimestepSampler, group: Group, on_device: bool | None = None):
        self.spec, self.data, self.sampler, self.group = spec, data, sampler, group
        share = spec.train.batch_size // group.world_size
        self.share = slice(group.rank * share, (group.rank + 1) * share)
        self.images = None
        if fits(data, group.device) if on_device is None else on_device:
            self.images = torch.from_numpy(np.ascontiguousarray(data.images)).to(group.device)

    def __call__(self, start: int, stop: int) -> Iterator[Batch]:
        with ThreadPoolExecutor(1) as reader:
            upcoming = reader.submit(self._read, start)
            for step in range(start, stop):
                read = upcoming.result()
                if step + 1 < stop:
                    upcoming = reader.submit(self._read, step + 1)
                yield self._assemble(step, *read)

    def _read(self, step: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Images uint8 [n, C, H, W], or indices [n] and which to flip [n] where images are on the device; labels [n]."""
        train, data = self.spec.train, self.data
        indices = batch_indices(len(data), train.batch_size, step, train.seed)[self.share]
        flip = flip_mask(train.batch_size, step, train.seed)[self.share] if self.spec.data.random_flip else None
        labels = data.labels[indices] if self.spec.data.class_cond else None
        if self.images is None:
            return self._pinned(load_batch(data, indices, flip)), None, self._pinned(labels)
        return self._pinned(indices), self._pinned(flip), self._pinned(labels)

    def _assemble(self, step: int, images: Tensor, flip: Tensor | None, labels: Tensor | None) -> Batch:
        train, device = self.spec.train, self.group.device
        images, flip, labels = self._send(images), self._send(flip), self._send(labels)
        if self.images is not None:
            images = self.images[images].permute(0, 3, 1, 2).contiguous()
            images = images if flip is None else torch.where(flip[:, None, None, None], images.flip(3), images)
        x_start = to_x(images)
        # Every rank draws for the whole global batch and keeps its share: the same noise for any number of ranks.
        t, weights = self.sampler.sample(train.batch_size, generator_for("cpu", train.seed, "timesteps", step))
        noise = torch.randn((train.batch_size, *x_start.shape[1:]), device=device,
                            generator=generator_for(device, train.seed, "noise", step))
        t, weights = (self._send(self._pinned(values[self.share].numpy())) for values in (t, weights))
        return Batch(x_start, noise[self.share], t, weights, labels)

    def _pinned(self, array: np.ndarray | None) -> Tensor | None:
        """In memory that a GPU reads by itself, while this process goes on."""
        if array is None:
            return None
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self.group.device.type == "cuda" else tensor

    def _send(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(self.group.device, non_blocking=True)


def fits(data: ImageData, device: torch.device) -> bool:
    """Whether the images may stay on the device: at most an eighth of a GPU's memory."""
    return device.type == "cuda" and data.images.nbytes <= torch.cuda.get_device_properties(device).total_memory / 8
