"""TensorBoard: what a run writes, under the reference's names where it has them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from jobs.data.pictures import grid
from jobs.errors import UserError
from jobs.run.progress import note
from jobs.spec.reading.frozen import dump
from jobs.spec.sections import Spec
from jobs.storage.disk_errors import disk_errors_explained, explained


class _Records(event_file_writer.RecordWriter):
    """Writes TensorBoard's records. A disk that refuses one is remembered, and gets no more.

    Otherwise the error would end TensorBoard's own thread, with a traceback, and meet training at some later step.
    """

    def __init__(self, file: Any):
        super().__init__(file)
        self.refusal: OSError | None = None

    def write(self, data: bytes) -> None:
        self._try(lambda: super(_Records, self).write(data))

    def flush(self) -> None:
        self._try(super().flush)

    def close(self) -> None:
        self._try(super().close)

    def _try(self, work: Callable[[], Any]) -> None:
        if self.refusal is None:
            try:
                work()
            except OSError as error:
                self.refusal = error


class _Clock:
    """Stands in for the module `time`: its time is never before `earliest`."""

    def __init__(self, earliest: float):
        self.earliest = earliest

    def time(self) -> float:
        return max(time.time(), self.earliest)


@contextmanager
def _made_our_way(folder: Path) -> Iterator[None]:
    """Let TensorBoard make `_Records` in the block, and a file whose name comes after those in `folder`. It has no such options.

    TensorBoard reads the files in the order of their names, which begin with the time: a clock that was set back would void the
    wrong points, and hide new ones.
    """
    names = (file.name.split(".") for file in folder.glob("events.out.tfevents.*"))
    latest = max((int(name[3]) for name in names if name[3].isdecimal()), default=0)
    original = event_file_writer.RecordWriter, event_file_writer.time
    event_file_writer.RecordWriter, event_file_writer.time = _Records, _Clock(latest + 1)
    try:
        yield
    finally:
        event_file_writer.RecordWriter, event_file_writer.time = original


class Board:
    """The TensorBoard log of one run; with folder=None (all ranks but the main one) it does nothing.

    A disk that fills up later ends the log with a note, and not the work that is logged.
    """

    def __init__(self, folder: Path | None, step: int):
        """`step`: points after it, left by an earlier attempt that got further than its checkpoint, are void.

        Raises UserError that names `folder` where the disk refuses the log at once.
        """
        self.writer, self.folder = None, folder
        if folder is not None:
            with disk_errors_explained(folder), _made_our_way(folder):
                self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else 0)
                self.records: _Records = self.writer._get_file_writer().event_writer._async_writer._writer
                if self.records.refusal:
                    raise self.records.refusal

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
            self._tell_refusal()

    def close(self) -> None:
        """End the log. Raises nothing."""
        if self.writer:
            self.writer.close()
            self._tell_refusal()

    def _tell_refusal(self) -> None:
        """Say once that the log ends here, if it does."""
        if self.records.refusal and self.folder:
            reason = explained(self.records.refusal, self.folder)
            said = reason if isinstance(reason, UserError) else f"{self.folder}: {reason}"
            note(f"{said}; TensorBoard's curves of this run end here, the work does not")
            self.writer = None
