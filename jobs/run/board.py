"""TensorBoard: what a run writes, under the reference's names where it has them."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from jobs.data.pictures import grid
from jobs.spec.file import dump
from jobs.spec.sections import Spec


class Board:
    """The TensorBoard log of one run; with folder=None (all ranks but the main one) it does nothing."""

    def __init__(self, folder: Path | None, step: int):
        """`step`: points after it, left by an earlier attempt that got further than its checkpoint, are void."""
        self.writer = None
        if folder is not None:
            self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else 0)

    def scalars(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            if self.writer:
                self.writer.add_scalar(name, value, step)

    def images(self, name: str, images: np.ndarray, step: int, columns: int) -> None:
        """uint8 [N, H, W, C] as one grid."""
        if self.writer:
            picture = grid(images, columns)
            self.writer.add_image(name, picture if picture.shape[2] == 3 else picture[:, :, :1], step, dataformats="HWC")

    def spec(self, spec: Spec) -> None:
        if self.writer:
            self.writer.add_text("spec", "\n".join("    " + line for line in dump(spec).splitlines()), 0)

    def hparams(self, settings: dict[str, bool | float | str], metrics: dict[str, float], step: int) -> None:
        """A row of the HPARAMS tab: what this run is, and what came out."""
        if self.writer:
            for summary in hparams(settings, metrics):
                self.writer.file_writer.add_summary(summary)
            self.scalars(metrics, step)

    def flush(self) -> None:
        """Return when all that was given is in the file."""
        if self.writer:
            self.writer.flush()

    def close(self) -> None:
        if self.writer:
            self.writer.close()


class Tally:
    """Losses summed on the device over steps and quartiles of t; read, summed over ranks, only when logged."""

    def __init__(self, keys: list[str], diffusion_steps: int, device: torch.device):
        self.keys, self.diffusion_steps = keys, diffusion_steps
        self.sums = torch.zeros(len(keys) + 1, 4, dtype=torch.float64, device=device)  # the last row counts

    def add(self, terms: dict[str, torch.Tensor], t: torch.Tensor, weights: torch.Tensor) -> None:
        """`terms` [N] by key, importance weights [N]. No synchronisation with the device."""
        quartile = 4 * t // self.diffusion_steps
        rows = torch.stack([terms[key].detach() * weights for key in self.keys] + [torch.ones_like(weights)])
        self.sums.index_add_(1, quartile, rows.double())

    def collect(self) -> dict[str, float]:
        """Means by key, and by key_q0 .. key_q3 where there were any, over all ranks; starts anew."""
        if torch.distributed.get_world_size() > 1:
            torch.distributed.all_reduce(self.sums)
        *sums, counts = self.sums.tolist()
        self.sums.zero_()
        means = {}
        for key, quartiles in zip(self.keys, sums):
            means[key] = sum(quartiles) / sum(counts)
            means |= {f"{key}_q{q}": quartiles[q] / counts[q] for q in range(4) if counts[q]}
        return means
