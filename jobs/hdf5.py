"""HDF5 files that may not fit on the disk, and that may come back damaged.

HDF5 lays out the file, Python writes the arrays into their places: a full disk is then an OSError, where HDF5 itself
fails to close its file and takes the process down at exit (seen with h5py 3.16 on HDF5 2.0).

A sealed file ends in its own checksum, where HDF5 does not look: a flipped byte is found before HDF5 reads it, which
ends some processes with a segmentation fault. The sum is xxHash's, made against accidents alone: it takes a tenth of the
time of sha256, which older files have and which is still read.
"""

import hashlib
import io
import math
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import xxhash

SUMS = {"xxh3_128": xxhash.xxh3_128, "sha256": hashlib.sha256}
SUM = "xxh3_128"


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
    """Write arrays to their offsets in the laid-out file, in ascending order, and seal it."""
    digest = SUMS[SUM]()
    with open(path, "r+b") as file:
        for offset, array in pieces:
            if offset < file.tell():
                raise ValueError(f"offset {offset} lies before what was written up to {file.tell()}")
            _update(digest, file, offset - file.tell())  # HDF5's own, in between
            content = memoryview(np.ascontiguousarray(array)).cast("B")
            file.write(content)
            digest.update(content)
        _update(digest, file, path.stat().st_size - file.tell())
        file.write(_seal(SUM, digest))


def as_bytes(arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> bytes:
    """A whole small HDF5 file, made in memory and sealed."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file.attrs.update(attributes)
    content = buffer.getvalue()
    return content + _seal(SUM, SUMS[SUM](content))


def read_sealed(path: Path, names: Collection[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Attributes, and those of the named datasets that are there, of a file that `as_bytes` made; it is read once.

    Raises OSError as `open_sealed` does.
    """
    content = path.read_bytes()
    _check_seal(io.BytesIO(content))
    with h5py.File(path, "r") as file:
        found = {name: file[name] for name in names if name in file}
        return {name: np.frombuffer(content, dataset.dtype, dataset.size, dataset.id.get_offset()).reshape(dataset.shape)
                for name, dataset in found.items()}, dict(file.attrs)


def open_sealed(path: Path) -> h5py.File:
    """The file `path` for reading, after its checksum. Raises OSError where it is damaged or was not sealed."""
    with open(path, "rb") as file:
        _check_seal(file)
    return h5py.File(path, "r")


def _check_seal(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    for name, new in SUMS.items():
        digest = new()
        start = max(size - len(_seal(name, digest)), 0)
        file.seek(start)
        found = file.read()
        if found.startswith(name.encode()):
            break
    file.seek(0)
    _update(digest, file, start)
    if found != _seal(name, digest):
        raise OSError("damaged: its checksum is not the recorded one")


def _seal(name: str, digest) -> bytes:
    return f"{name} {digest.hexdigest()}\n".encode()


def _update(digest, file: BinaryIO, size: int) -> None:
    """Take the next `size` bytes of the file into the sum."""
    while size > 0 and (block := file.read(min(size, 1 << 20))):
        digest.update(block)
        size -= len(block)
