"""Make a data set from the CIFAR-10 python archive (Krizhevsky 2009), whose pickles are not trusted."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from jobs.data.importers.writer import Summary, Writer
from jobs.errors import UserError
from jobs.storage.names import reason, shortened

_FOLDER = "cifar-10-batches-py"
_MOST_BYTES = 512 << 20  # of the archive, unpacked
_MOST_BATCH = 64 << 20  # bytes of one of its files; there are 30 MiB in one
_BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}


def import_cifar10(source: Path, writer: Writer, split: Literal["train", "test"]) -> Summary:
    """Write CIFAR-10's 50,000 training or 10,000 test images, 32x32 RGB, with the data set's own class ids.

    `source` is `cifar-10-python.tar.gz` or the unpacked folder `cifar-10-batches-py`. Raises UserError that names the file
    which is missing, damaged or of another data set.
    """
    images, labels, classes = _read_split(source, split)
    return writer.write(images, (len(labels), 32, 32, 3), labels, classes, f"CIFAR-10, {split}")


def _read_split(archive: Path, split: Literal["train", "test"]) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """Images of each batch file, uint8 [n, 32, 32, 3]; labels of all, int64 [N]; class names in the order of their ids."""
    members = _read_members(archive, ["batches.meta", *_BATCHES[split]])
    meta = _unpickle(archive, "batches.meta", members["batches.meta"])
    names = meta.get(b"label_names") if isinstance(meta, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, bytes) for name in names):
        raise UserError(f"{archive}: batches.meta has no label_names; is this the CIFAR-10 python version?")
    parts = [_read_batch(archive, name, members[name], len(names)) for name in _BATCHES[split]]
    return ([images for images, _ in parts], np.concatenate([labels for _, labels in parts]),
            [name.decode("utf-8", "replace") for name in names])


def _read_members(archive: Path, wanted: list[str]) -> dict[str, bytes]:
    """Read the wanted files of the archive or folder, by name. Raises UserError if one is missing."""
    found: dict[str, bytes] = {}
    try:
        if archive.is_dir():
            files = {name: archive / name for name in wanted if (archive / name).is_file()}
            if large := [name for name, file in files.items() if file.stat().st_size > _MOST_BATCH]:
                raise UserError(f"{archive / large[0]}: more than {_MOST_BATCH >> 20} MiB, so it is no part of CIFAR-10")
            found = {name: file.read_bytes() for name, file in files.items()}
        elif archive.exists() and not archive.is_file():
            raise UserError(f"{archive}: not a regular file")
        else:
            with open(archive, "rb") as packed, _unpacked(packed) as unpacked, _Limited(unpacked) as limited, \
                    tarfile.open(fileobj=limited, mode="r|") as tar:
                for member in tar:
                    folder, name = os.path.split(os.path.normpath(member.name))
                    if member.size > _MOST_BATCH:
                        raise UserError(f"{archive}: holds a file of more than {_MOST_BATCH >> 20} MiB, so it is not CIFAR-10")
                    if folder == _FOLDER and name in wanted and member.isfile() and (file := tar.extractfile(member)):
                        found[name] = file.read()
                while limited.read(1 << 20):  # gzip compares the checksum only at the end
                    pass
    except FileNotFoundError as error:
        raise UserError(f"{archive}: no such file; give cifar-10-python.tar.gz or {_FOLDER}") from error
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError, MemoryError, OverflowError) as error:
        raise UserError(f"{archive}: not a whole tar archive ({reason(error)}); fetch it again") from error
    if missing := [name for name in wanted if name not in found]:
        raise UserError(f"{archive}: has no {_FOLDER}/{missing[0]}; is this the CIFAR-10 python version, "
                        f"and whole? Missing in all: {', '.join(missing)}")
    return found


def _unpacked(archive: IO[bytes]) -> IO[bytes]:
    """The tar archive that is packed in `archive`, with gzip, bzip2, xz or not at all."""
    start = archive.read(6)
    archive.seek(0)
    unpackers: dict[bytes, Callable[[], Any]] = {
        b"\x1f\x8b": lambda: gzip.GzipFile(fileobj=archive), b"BZh": lambda: bz2.BZ2File(archive),
        b"\xfd7zXZ\0": lambda: lzma.LZMAFile(archive)}
    unpack = next((unpacker for signature, unpacker in unpackers.items() if start.startswith(signature)), lambda: archive)
    return unpack()


class _Limited(io.RawIOBase):
    """Reads `stream`, and raises OSError after _MOST_BYTES: a small archive must not fill memory, or take for ever."""

    def __init__(self, stream: IO[bytes]):
        self._stream, self._left = stream, _MOST_BYTES

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            raise OSError(f"it unpacks to more than {_MOST_BYTES >> 20} MiB, and CIFAR-10 to 178 MiB")
        content = self._stream.read(size)
        self._left -= len(content)
        return content


class _ArrayUnpickler(pickle.Unpickler):
    """Finds only the names that a pickled array consists of: a data file must not run code."""

    _RECONSTRUCT = np.zeros(0).__reduce__()[0]
    _ALLOWED = {("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
                ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
                ("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no image data needs")
        return self._ALLOWED[module, name]


def _unpickle(archive: Path, name: str, content: bytes) -> Any:
    """Unpickle the file `name` of the archive. Raises UserError if that fails."""
    try:
        return _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise any exception
        raise UserError(f"{archive}: {name} is not a CIFAR-10 pickle, or a damaged one ({reason(error)})") from error


def _read_batch(archive: Path, name: str, content: bytes, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 32, 32, 3] and labels int64 [n] of one batch file."""
    batch = _unpickle(archive, name, content)
    data, labels = (batch.get(b"data"), batch.get(b"labels")) if isinstance(batch, dict) else (None, None)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,) or not len(data):
        found = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise UserError(f"{archive}: {name}: data is {shortened(found)}; it must be uint8 [10000, 3072]")
    if not isinstance(labels, list) or len(labels) != len(data) or \
            not all(isinstance(label, int) and 0 <= label < num_classes for label in labels):
        raise UserError(f"{archive}: {name}: labels must be {len(data)} numbers in 0 .. {num_classes - 1}")
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, np.int64)
