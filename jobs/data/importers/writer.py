"""Write the HDF5 file of a new data set. `jobs.data.dataset` says what is inside, and opens the file.

An importer is a function of a source and a Writer; options come after these two:

    def import_digits(source: str, writer: Writer) -> Summary:
        data = open_built_in(source)
        return writer.write([data.images], data.images.shape, data.labels, data.class_names, data.source)
"""

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from jobs.errors import UserError
from jobs.storage.disk_errors import disk_errors_explained
from jobs.storage.files import atomic_path, make_dir
from jobs.storage.hdf5 import Layout, lay_out
from jobs.storage.opening import is_hdf5
from jobs.terminal import printable

_BLOCK, _BLOCK_BYTES = 256, 64 << 20  # images, and their bytes, in memory at a time


@dataclass(frozen=True)
class Summary:
    """`count` images written; `skipped` images as (path, reason); `classes` in the order of their ids; `remarks` in words;
    `largest` label, -1 without labels."""

    count: int
    skipped: list[tuple[str, str]]
    classes: list[str]
    remarks: list[str] = field(default_factory=list)
    largest: int = -1


@dataclass(frozen=True)
class Writer:
    """Writes one data set to the file `output`, which appears when the data set is whole.

    `report(done, total)` is called now and then with numbers of images; a `total` of 0 is not known. Both methods raise
    UserError if the disk refuses, or if `output` exists and is not an HDF5 file: a wrong path must not destroy anything else,
    the source for example.
    """

    output: Path
    report: Callable[[int, int], None] | None = None

    def write(self, blocks: Iterable[np.ndarray], shape: tuple[int, ...], labels: np.ndarray | None,
              class_names: Sequence[str], source: str, skipped: Sequence[tuple[str, str]] = (),
              remarks: Sequence[str] = ()) -> Summary:
        """Write the images uint8 `shape` = [N, H, W, C], which come in `blocks` [n, H, W, C], and their labels int64 [N].

        `source` says in words where the images come from. Exceptions of `blocks` pass through, and nothing is written.
        """
        self._refuse_other_files()
        layouts = {"images": Layout(shape, np.uint8)} | ({} if labels is None else {"labels": Layout(shape[:1], "<i8")})
        attributes = {"source": printable(source), "class_names": json.dumps(list(class_names)), "skipped": len(skipped)}
        with atomic_path(self.output) as temporary:
            offsets = lay_out(temporary, layouts, attributes)
            with open(temporary, "r+b") as file:
                file.seek(offsets["images"][0])
                done = 0
                for block in blocks:
                    file.write(np.ascontiguousarray(block).data)
                    done += len(block)
                    if self.report:
                        self.report(done, shape[0])
                assert file.tell() == offsets["images"][0] + math.prod(shape), "blocks do not add up to the shape"
                if labels is not None:
                    file.seek(offsets["labels"][0])
                    file.write(labels.astype("<i8").data)
        largest = -1 if labels is None else int(labels.max(initial=-1))
        return Summary(shape[0], list(skipped), list(class_names), list(remarks), largest)

    @contextmanager
    def spool(self) -> Iterator[IO[bytes]]:
        """A temporary file beside `output`, for images whose number is not known yet: a contiguous data set cannot shrink."""
        self._refuse_other_files()
        make_dir(self.output.parent)
        with disk_errors_explained(self.output), tempfile.TemporaryFile(dir=self.output.parent) as spool:
            yield spool

    def _refuse_other_files(self) -> None:
        if self.output.exists() and not (self.output.is_file() and is_hdf5(self.output)):
            raise UserError(f"{self.output}: exists and is not an HDF5 file; choose another output")


def blocks_of(stream: IO[bytes], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Read the rest of `stream` as blocks uint8 [up to 256, H, W, C] of `shape` [N, H, W, C].

    Raises ValueError if the stream is shorter or longer.
    """
    image_bytes = math.prod(shape[1:])
    rows = max(1, min(_BLOCK, _BLOCK_BYTES // max(1, image_bytes)))
    for start in range(0, shape[0], rows):
        count = min(rows, shape[0] - start)
        content = stream.read(count * image_bytes)
        if len(content) != count * image_bytes:
            raise ValueError(f"ends in image {start + len(content) // image_bytes} of {shape[0]}")
        yield np.frombuffer(content, np.uint8).reshape(count, *shape[1:])
    if stream.read(1):  # zipfile compares the checksum only when the member is read to its end
        raise ValueError(f"goes on after the last of {shape[0]} images")
