"""Write HDF5 files that may not fit on the disk.

HDF5 lays out the file, and Python writes the arrays to their offsets. A full disk then raises OSError; if HDF5 wrote the
arrays, closing the file would fail and end the process with a segmentation fault (seen with h5py 3.16 on HDF5 2.0).
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

from jobs.storage.sealed import USER_BLOCK, new_digest, seal, update_from

FLUSH_EVERY = 32 << 20  # bytes


@dataclass(frozen=True)
class Layout:
    """One dataset of a file that will be filled: contiguous, or in HDF5 chunks of `rows_per_chunk` rows."""

    shape: tuple[int, ...]
    dtype: type | str
    rows_per_chunk: int | None = None

    @property
    def chunks(self) -> tuple[int, ...] | None:
        return None if self.rows_per_chunk is None else (min(self.rows_per_chunk, self.shape[0]), *self.shape[1:])

    @property
    def size(self) -> int:
        """Bytes, with the padding of the last chunk."""
        rows = self.shape[0] if self.chunks is None else -(-self.shape[0] // self.chunks[0]) * self.chunks[0]
        return rows * math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize


def lay_out(path: Path, layouts: dict[str, Layout], attributes: dict[str, Any], sealed: bool = False) -> dict[str, list[int]]:
    """Create the file `path` with datasets to be filled, and with room for a seal. Returns by name the offset of each chunk.

    A contiguous dataset has one offset. Raises OSError if the disk has no room for the whole file as far as HDF5 writes it.
    """
    own = (1 << 16) + sum(len(str(value)) for value in attributes.values())
    own += 72 * sum(-(-layout.shape[0] // layout.chunks[0]) for layout in layouts.values() if layout.chunks)
    with open(path, "wb") as file:  # as much as HDF5 will write: a full disk must show before HDF5 does
        file.write(bytes(own))
        file.flush()
        os.fsync(file.fileno())
        file.truncate(own + sum(layout.size for layout in layouts.values()))
    with h5py.File(path, "w", locking=False, userblock_size=USER_BLOCK if sealed else 0) as file:
        file.attrs.update(attributes)
        return {name: _create(file, name, layout) for name, layout in layouts.items()}


def _create(file: h5py.File, name: str, layout: Layout) -> list[int]:
    """Create one dataset, whose room in the file HDF5 allocates now and does not fill; return the offsets of its chunks."""
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    dataset = file.create_dataset(name, layout.shape, layout.dtype, chunks=layout.chunks, dcpl=early).id
    if layout.chunks is None:
        return [dataset.get_offset()]
    starts = range(0, layout.shape[0], layout.chunks[0])
    return [dataset.get_chunk_info_by_coord((start, *[0] * (len(layout.shape) - 1))).byte_offset for start in starts]


def fill(path: Path, pieces: Iterable[tuple[int, np.ndarray]], places: dict[str, list[int]]) -> None:
    """Write (offset, array) pairs, in ascending order, into the file that `lay_out` made, and seal the file.

    `places` are the offsets that `lay_out` gave; an array goes to one of them, or behind another of its dataset. Flushing runs
    beside the writing, so that little is left to flush at the end. Raises ValueError for a wrong order, and OSError if the disk
    refuses.
    """
    name_at = {offset: name for name, offsets in places.items() for offset in offsets}
    contents, name = {name: new_digest() for name in places}, ""
    digest, position, flushes = new_digest(), USER_BLOCK, list[Future[None]]()
    with open(path, "r+b", buffering=0) as file, ThreadPoolExecutor(1) as disk:
        file.seek(position)
        for offset, array in pieces:
            if offset < position:
                raise ValueError(f"offset {offset} lies before what was written up to {position}")
            update_from(digest, file, offset - position)  # what HDF5 wrote between the arrays
            content = np.ascontiguousarray(array).data.cast("B")
            digest.update(content)
            name = name_at.get(offset, name)
            contents[name].update(content)
            _write(file, content)
            position = offset + len(content)
            if position >= FLUSH_EVERY * (len(flushes) + 1):
                flushes.append(disk.submit(os.fdatasync, file.fileno()))
        update_from(digest, file, path.stat().st_size - position)
        file.seek(0)
        # Chunks that HDF5 laid out in another order than that of their rows cannot be compared with a dataset's values.
        in_order = {name: contents[name].hexdigest() for name, offsets in places.items() if offsets == sorted(offsets)}
        _write(file, memoryview(seal(digest, in_order)))
        for flush in flushes:
            flush.result()  # the system reports an error of the disk only once, to the first flush after it


def _write(file: FileIO, content: memoryview) -> None:
    """Write all of `content`: one call of an unbuffered file may write less."""
    while content:
        content = content[file.write(content):]
