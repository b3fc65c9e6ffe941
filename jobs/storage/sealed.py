"""Seal HDF5 files with their own checksum, in the user block in front, which HDF5 leaves alone.

A damaged file must be found before HDF5 reads it, because HDF5 then ends some processes with a segmentation fault. The seal
lies in the file itself, so that one rename puts data and checksum in place, and one read returns and checks both. It lies in
front because HDF5 cuts off what follows its data when a program opens the file to write. (Checkpoints have a manifest.json with
checksums instead: other programs read their files.) The checksum is xxHash's, which takes a tenth of the time of sha256 and
finds accidents, not attacks.

The user block is text, zeros behind it: "xxh3_128 HEX", of all bytes after this line, then "NAME HEX" of the values of datasets,
by which a file is known again that another program opened and wrote to.
"""

import io
import math
import subprocess
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import xxhash

from jobs.own_python import python_command
from jobs.storage.opening import open_hdf5, refuse_written

DAMAGED = "damaged: its checksum is not the recorded one"
USER_BLOCK = 512  # bytes; the least that HDF5 takes
_NAME = b"xxh3_128 "
_SEAL_BYTES = len(_NAME) + 32 + 1
_ROWS = 1 << 24  # bytes of a dataset that are read at a time


def new_digest() -> xxhash.xxh3_128:
    """The checksum of a file that is written piece by piece; `seal` makes the file's first bytes of it."""
    return xxhash.xxh3_128()


def update_from(digest: xxhash.xxh3_128, file: BinaryIO, size: int) -> None:
    """Add the next `size` bytes of `file` to the checksum."""
    while size > 0 and (block := file.read(min(size, 1 << 20))):
        digest.update(block)
        size -= len(block)


def seal(digest: xxhash.xxh3_128, contents: dict[str, str] | None = None) -> bytes:
    """The user block of a file whose other bytes have the checksum `digest`, and whose datasets have those in `contents`."""
    lines = "".join(f"{name} {hexadecimal}\n" for name, hexadecimal in (contents or {}).items()).encode()
    if len(lines) > USER_BLOCK - _SEAL_BYTES:
        lines = b""  # such a file is only known by all of its bytes
    lines = lines.ljust(USER_BLOCK - _SEAL_BYTES, b"\0")
    digest.update(lines)
    return _NAME + digest.hexdigest().encode() + b"\n" + lines


def as_bytes(arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> bytes:
    """A whole small HDF5 file, made in memory and sealed."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=USER_BLOCK) as file:
        for name, array in arrays.items():
            file[name] = array
        file.attrs.update(attributes)
    content = buffer.getvalue()[USER_BLOCK:]
    return seal(xxhash.xxh3_128(content)) + content


def open_sealed(path: Path, changed: Callable[[str], None] | None = None) -> h5py.File:
    """Check the seal of the file `path`, then open it for reading. Raises OSError if it is damaged or has no seal.

    If another program wrote to the file, and the values of its datasets are still those that were sealed, `changed` is called
    with a sentence, and the file is opened. Raises UserError if another process has it open for writing.
    """
    check_seal(path, changed)
    return open_hdf5(path)


def check_seal(path: Path, changed: Callable[[str], None] | None = None) -> None:
    """As `open_sealed`, without opening the file."""
    refuse_written(path)
    if not _is_whole(path):
        _check_contents(path, changed)


def has_seal(path: Path) -> bool:
    """Whether the file begins as a sealed file does."""
    with open(path, "rb") as file:
        return file.read(len(_NAME)) == _NAME


def _is_whole(path: Path) -> bool:
    with open(path, "rb") as file:
        found, digest = file.read(USER_BLOCK), new_digest()
        update_from(digest, file, path.stat().st_size)
        digest.update(found[_SEAL_BYTES:])
        return len(found) == USER_BLOCK and found[:_SEAL_BYTES] == _NAME + digest.hexdigest().encode() + b"\n"


def _check_contents(path: Path, changed: Callable[[str], None] | None) -> None:
    """Raise OSError unless the values of the datasets in `path` are those that were sealed; if they are, call `changed`."""
    if changed is None or not (sealed := _sealed_contents(path)):
        raise OSError(DAMAGED)
    # HDF5 may end a process that reads a damaged file, so another process reads the file first.
    command = python_command("from jobs.storage.sealed import print_contents; print_contents(sys.argv[1])", str(path))
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode or done.stdout.splitlines() != [f"{name} {hexadecimal}" for name, hexadecimal in sealed.items()]:
        raise OSError(DAMAGED)
    changed(f"{path}: another program wrote to this file; {', '.join(sealed)} are still as they were made")


def _sealed_contents(path: Path) -> dict[str, str]:
    with open(path, "rb") as file:
        lines = file.read(USER_BLOCK)[_SEAL_BYTES:].rstrip(b"\0").decode(errors="replace").splitlines()
    pairs = [line.split(" ") for line in lines]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def print_contents(path: str) -> None:
    """Print the name and the checksum of each dataset that was sealed in the file `path`."""
    with open_hdf5(path) as file:
        for name in _sealed_contents(Path(path)):
            dataset, digest = file[name], new_digest()
            rows = max(1, _ROWS // max(1, dataset.nbytes // max(1, len(dataset))))
            for start in range(0, len(dataset), rows):
                digest.update(np.ascontiguousarray(dataset[start:start + rows]).data.cast("B"))
            print(name, digest.hexdigest())


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
        if content[:USER_BLOCK] != seal(xxhash.xxh3_128(content[USER_BLOCK:])):
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
    """Offset and content of each piece of the file between the arrays, without the user block."""
    size: int

    @staticmethod
    def of(content: memoryview, names: Collection[str]) -> "FileLayout":
        """Let HDF5 parse the file `content`, whose datasets `names` must be contiguous."""
        with h5py.File(io.BytesIO(content), "r") as file:
            found = {name: file[name] for name in names if name in file}
            arrays = {name: (dataset.id.get_offset(), dataset.dtype, dataset.shape) for name, dataset in found.items()}
            around, end = [], USER_BLOCK  # the seal differs from file to file
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
