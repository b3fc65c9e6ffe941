"""HDF5 files that may not fit on the disk.

HDF5 lays out the file, Python writes the arrays into their places: a full disk is then an OSError, where HDF5 itself
fails to close its file and takes the process down at exit (seen with h5py 3.16 on HDF5 2.0).
"""

import math
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jobs.storage.sealed import new_sum, seal, update

FLUSH_EVERY = 32 << 20  # bytes


@dataclass(frozen=True)
class Layout:
    """One dataset of a file to be filled: contiguous, or in pieces of `rows_per_chunk` rows."""

    shape: tuple[int, ...]
    dtype: type | str
    rows_per_chunk: int | None = None

    @property
    def chunks(self) -> tuple[int, ...] | None:
        return None if self.rows_per_chunk is None else (min(self.rows_per_chunk, self.shape[0]), *self.shape[1:])

    @property
    def size(self) -> int:
        """Bytes, the padding of the last chunk included."""
        rows = self.shape[0] if self.chunks is None else -(-self.shape[0] // self.chunks[0]) * self.chunks[0]
        return rows * math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize


def lay_out(path: Path, layouts: dict[str, Layout], attributes: dict[str, Any]) -> dict[str, list[int]]:
    """Create the file with empty datasets. Returns, by name, the offset in the file of each chunk (one if contiguous)."""
    own = (1 << 16) + sum(len(str(value)) for value in attributes.values())
    own += 72 * sum(-(-layout.shape[0] // layout.chunks[0]) for layout in layouts.values() if layout.chunks)
    with open(path, "wb") as file:  # what HDF5 itself will write: a full disk must show before it does
        file.write(bytes(own))
        file.flush()
        os.fsync(file.fileno())
        file.truncate(own + sum(layout.size for layout in layouts.values()))
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        return {name: _create(file, name, layout) for name, layout in layouts.items()}


def _create(file: h5py.File, name: str, layout: Layout) -> list[int]:
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    dataset = file.create_dataset(name, layout.shape, layout.dtype, chunks=layout.chunks, dcpl=early).id
    if layout.chunks is None:
        return [dataset.get_offset()]
    starts = range(0, layout.shape[0], layout.chunks[0])
    return [dataset.get_chunk_info_by_coord((start, *[0] * (len(layout.shape) - 1))).byte_offset for start in starts]


def fill(path: Path, pieces: Iterable[tuple[int, np.ndarray]]) -> None:
    """Write arrays to their offsets in the laid-out file, in ascending order, and seal it.

    The disk gets the first pieces while the next are made: there is little left to flush at the end.
    """
    digest, position, flushes = new_sum(), 0, list[Future[None]]()
    with open(path, "r+b", buffering=0) as file, ThreadPoolExecutor(1) as disk:
        for offset, array in pieces:
            if offset < position:
                raise ValueError(f"offset {offset} lies before what was written up to {position}")
            update(digest, file, offset - position)  # HDF5's own, in between
            content = memoryview(np.ascontiguousarray(array)).cast("B")
            digest.update(content)
            _write(file, content)
            position = offset + len(content)
            if position >= FLUSH_EVERY * (len(flushes) + 1):
                flushes.append(disk.submit(os.fdatasync, file.fileno()))
        update(digest, file, path.stat().st_size - position)
        _write(file, memoryview(seal(digest)))
        for flush in flushes:
            flush.result()  # the system tells of an error once, whoever asks first


def _write(file: FileIO, content: memoryview) -> None:
    while content:
        content = content[file.write(content):]
