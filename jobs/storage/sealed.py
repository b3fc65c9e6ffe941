"""Seal HDF5 files with their own checksum, at the end of the file, where HDF5 does not look.

A damaged file must be found before HDF5 reads it, because HDF5 then ends some processes with a segmentation fault. The seal
lies in the file itself, so that one rename puts data and checksum in place, and one read returns and checks both. (Checkpoints
have a manifest.json with checksums instead: other programs read their files, and refuse bytes after the end.) The checksum is
xxHash's, which takes a tenth of the time of sha256 and finds accidents, not attacks.
"""

import io
import math
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import xxhash

from jobs.storage.opening import open_hdf5

DAMAGED = "damaged: its checksum is not the recorded one"
_NAME = b"xxh3_128 "
_SEAL_BYTES = len(_NAME) + 32 + 1


def new_digest() -> xxhash.xxh3_128:
    """The checksum of a file that is written piece by piece; `seal` turns it into the file's last bytes."""
    return xxhash.xxh3_128()


def update_from(digest: xxhash.xxh3_128, file: BinaryIO, size: int) -> None:
    """Add the next `size` bytes of `file` to the checksum."""
    while size > 0 and (block := file.read(min(size, 1 << 20))):
        digest.update(block)
        size -= len(block)


def seal(digest: xxhash.xxh3_128) -> bytes:
    """The bytes that end a file whose other bytes have this checksum."""
    return _NAME + digest.hexdigest().encode() + b"\n"


def as_bytes(arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> bytes:
    """A whole small HDF5 file, made in memory and sealed."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file.attrs.update(attributes)
    content = buffer.getvalue()
    return content + seal(xxhash.xxh3_128(content))


def open_sealed(path: Path) -> h5py.File:
    """Check the seal of the file `path`, then open it for reading. Raises OSError if it is damaged or has no seal."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END) - _SEAL_BYTES
        digest = new_digest()
        file.seek(0)
        update_from(digest, file, size)
        if size < 0 or file.read() != seal(digest):
            raise OSError(DAMAGED)
    return open_hdf5(path)


class SameLayoutReader:
    """Reads many files that `as_bytes` made, fast if most have the same layout and differ only in the values of their arrays.

    HDF5 parses the first file of each layout. In the others the bytes around the arrays must be the same, and the arrays are
    then read from the same offsets without HDF5.
    """

    def __init__(self, *names: str):
        """`names` of the datasets to read; a file may lack some."""
        self._names, self._layouts = names, list[FileLayout]()

    def read(self, path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The named datasets that are in the file, and its attributes. Raises OSError if it is damaged or has no seal."""
        content = memoryview(path.read_bytes())
        content, found = content[:-_SEAL_BYTES], content[-_SEAL_BYTES:]
        if found != seal(xxhash.xxh3_128(content)):
            raise OSError(DAMAGED)
        layout = next((layout for layout in self._layouts if layout.fits(content)), None)
        if layout is None:
            layout = FileLayout.of(content, self._names)
            self._layouts.append(layout)
        return layout.arrays_of(content), dict(layout.attributes)


@dataclass(frozen=True)
class FileLayout:
    """Where the arrays of an HDF5 file lie, and all bytes around them."""

    attributes: dict[str, Any]
    arrays: dict[str, tuple[int, np.dtype, tuple[int, ...]]]
    """Offset, type and shape by name."""
    around: list[tuple[int, bytes]]
    """Offset and content of each piece of the file between the arrays."""
    size: int

    @staticmethod
    def of(content: memoryview, names: Collection[str]) -> "FileLayout":
        """Let HDF5 parse the file `content`, whose datasets `names` must be contiguous."""
        with h5py.File(io.BytesIO(content), "r") as file:
            found = {name: file[name] for name in names if name in file}
            arrays = {name: (dataset.id.get_offset(), dataset.dtype, dataset.shape) for name, dataset in found.items()}
            around, end = [], 0
            for offset, size in sorted((dataset.id.get_offset(), dataset.nbytes) for dataset in found.values()):
                around.append((end, bytes(content[end:offset])))
                end = offset + size
            return FileLayout(dict(file.attrs), arrays, [*around, (end, bytes(content[end:]))], len(content))

    def fits(self, content: memoryview) -> bool:
        """Whether `content` has this layout."""
        if len(content) != self.size:
            return False
        return all(bytes(content[start:start + len(piece)]) == piece for start, piece in self.around)

    def arrays_of(self, content: memoryview) -> dict[str, np.ndarray]:
        """The arrays of `content`, by name, as views into it."""
        return {name: np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape)
                for name, (offset, dtype, shape) in self.arrays.items()}
