"""TensorBoard: what a run writes, under the reference's names where it has them."""

from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from jobs.data.pictures import grid
from jobs.spec.reading.frozen import dump
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
                self.writer._get_file_writer().add_summary(summary)
            self.scalars(metrics, step)

    def flush(self) -> None:
        """Return when all that was given is in the file."""
        if self.writer:
            self.writer.flush()

    def close(self) -> None:
        if self.writer:
            self.writer.close()
