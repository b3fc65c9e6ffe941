"""What each rank trains on at each step: its share of a global batch that does not depend on the number of ranks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.timestep_samplers import TimestepSampler
from jobs.data import ImageData, batch_indices, flip_mask, load_batch
from jobs.distributed import Group
from jobs.pictures import to_x
from jobs.randomness import generator_for
from jobs.spec import Spec


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
    """The batches of one rank from step `start` on; images of the next step are read while this one computes."""

    def __init__(self, spec: Spec, data: ImageData, sampler: TimestepSampler, group: Group):
        self.spec, self.data, self.sampler, self.group = spec, data, sampler, group
        share = spec.train.batch_size // group.world_size
        self.share = slice(group.rank * share, (group.rank + 1) * share)

    def __call__(self, start: int, stop: int) -> Iterator[Batch]:
        with ThreadPoolExecutor(1) as reader:
            upcoming = reader.submit(self._read, start)
            for step in range(start, stop):
                images, labels = upcoming.result()
                if step + 1 < stop:
                    upcoming = reader.submit(self._read, step + 1)
                yield self._assemble(step, images, labels)

    def _read(self, step: int) -> tuple[Tensor, Tensor | None]:
        train, data = self.spec.train, self.data
        indices = batch_indices(len(data), train.batch_size, step, train.seed)[self.share]
        flip = flip_mask(train.batch_size, step, train.seed)[self.share] if self.spec.data.random_flip else None
        images = torch.from_numpy(load_batch(data, indices, flip))
        return images, torch.from_numpy(data.labels[indices]) if self.spec.data.class_cond else None

    def _assemble(self, step: int, images: Tensor, labels: Tensor | None) -> Batch:
        train, device = self.spec.train, self.group.device
        x_start = to_x(self._send(images))
        # Every rank draws for the whole global batch and keeps its share: the same noise for any number of ranks.
        t, weights = self.sampler.sample(train.batch_size, generator_for("cpu", train.seed, "timesteps", step))
        noise = torch.randn((train.batch_size, *x_start.shape[1:]), device=device,
                            generator=generator_for(device, train.seed, "noise", step))
        return Batch(x_start, noise[self.share], self._send(t[self.share]), self._send(weights[self.share]),
                     None if labels is None else self._send(labels))

    def _send(self, tensor: Tensor) -> Tensor:
        if self.group.device.type == "cuda":
            return tensor.pin_memory().to(self.group.device, non_blocking=True)
        return tensor
