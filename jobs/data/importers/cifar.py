"""Make a data set from the CIFAR-10 or CIFAR-100 python archive (Krizhevsky 2009), whose pickles are not trusted."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jobs.data.importers.averaged import averaged
from jobs.data.importers.reading.pickles import PickledArray, read_pickle
from jobs.data.importers.reading.tar_members import Member, open_tar
from jobs.data.importers.writer import Summary, Writer
from jobs.errors import UserError
from jobs.storage.disk_errors import why_missing
from jobs.storage.files import read_bytes
from jobs.storage.names import reason

_MOST_BYTES = 512 << 20  # of the archive, unpacked; there are 178 MiB in each
_BLOCK = 500  # images that are written at a time

Split = Literal["train", "test"]


@dataclass(frozen=True)
class _Archive:
    """What the archive of a data set holds: `most` bytes in one of its files, class names at `names` of the file `meta`, and
    labels at `labels` of the files of a split."""

    title: str
    folder: str
    command: str
    meta: str
    names: bytes
    labels: bytes
    batches: dict[Split, list[str]]
    most: int

    @property
    def file(self) -> str:
        return self.folder.replace("-batches-py", "-python") + ".tar.gz"


_CIFAR10 = _Archive("CIFAR-10", "cifar-10-batches-py", "cifar10", "batches.meta", b"label_names", b"labels",
                    {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]},
                    64 << 20)  # there are 30 MiB in one
_CIFAR100 = {labels: _Archive("CIFAR-100", "cifar-100-python", "cifar100", "meta", f"{labels}_label_names".encode(),
                              f"{labels}_labels".encode(), {"train": ["train"], "test": ["test"]}, 256 << 20)  # 148 MiB
             for labels in ("fine", "coarse")}


def import_cifar10(source: Path, writer: Writer, split: Split, image_size: int | None = None) -> Summary:
    """Write CIFAR-10's 50,000 training or 10,000 test images, 32x32 RGB, with the data set's own class ids.

    `source` is `cifar-10-python.tar.gz` or the unpacked folder `cifar-10-batches-py`. `image_size` averages down. Memory holds
    the images of the split. Raises UserError that names the file which is missing, damaged or of another data set.
    """
    return _import(_CIFAR10, source, writer, split, image_size, f"CIFAR-10, {split}")


def import_cifar100(source: Path, writer: Writer, split: Split, labels: Literal["fine", "coarse"] = "fine",
                    image_size: int | None = None) -> Summary:
    """Write CIFAR-100's 50,000 training or 10,000 test images, 32x32 RGB, with its 100 fine or its 20 coarse classes.

    `source` is `cifar-100-python.tar.gz` or the unpacked folder `cifar-100-python`; otherwise as `import_cifar10`.
    """
    return _import(_CIFAR100[labels], source, writer, split, image_size, f"CIFAR-100, {split}, {labels} labels")


_ALL = (_CIFAR10, _CIFAR100["fine"])


def _import(known: _Archive, source: Path, writer: Writer, split: Split, image_size: int | None, words: str) -> Summary:
    parts, classes = _read_split(known, source, split)
    labels = np.concatenate([labels for _, labels in parts])
    blocks = (images[start:start + _BLOCK] for images, _ in parts for start in range(0, len(images), _BLOCK))
    small = averaged(blocks, (len(labels), 32, 32, 3), image_size, str(source))
    return writer.write(small.blocks, small.shape, labels, classes, words + small.words)


def _read_split(known: _Archive, source: Path, split: Split) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[str]]:
    """Images uint8 [n, 32, 32, 3] and labels int64 [n] of each batch file; class names in the order of their ids."""
    # Unpickled one by one as they come, so that memory never holds both forms of all.
    found = {name: _unpickle(source, name, content, known.title)
             for name, content in _read_members(known, source, [known.meta, *known.batches[split]])}
    meta = found[known.meta]
    names = meta.get(known.names) if isinstance(meta, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, bytes) for name in names):
        raise UserError(f"{source}: {known.meta} has no {known.names.decode()}; is this the {known.title} python version?")
    parts = [_read_batch(known, source, name, found.pop(name), len(names)) for name in known.batches[split]]
    return parts, [name.decode("utf-8", "replace") for name in names]


def _read_members(known: _Archive, source: Path, wanted: list[str]) -> Iterator[tuple[str, bytes]]:
    """Read the wanted files of the archive or folder, in any order. Raises UserError if one is missing, or there twice."""
    folders, found = set[str](), set[str]()
    with _open(known, source) as files:
        for folder, name, read in files:
            folders.add(folder)
            if folder == known.folder and name in wanted:
                if name in found:
                    raise UserError(f"{source}: holds {folder}/{name} twice; which is meant?")
                found.add(name)
                yield name, read()
    if missing := [name for name in wanted if name not in found]:
        other = next((other for other in _ALL if other.folder in folders - {known.folder}), None)
        if other and not found:
            raise UserError(f"{source}: is {other.title}, not {known.title}; use `iddpm data {other.command}`")
        raise UserError(f"{source}: has no {known.folder}/{missing[0]}; is this the {known.title} python version, "
                        f"and whole? Missing in all: {', '.join(missing)}")


_Files = Iterator[tuple[str, str, Callable[[], bytes]]]
"""Folder, name and reader of each file. A file of an archive is read before the next one."""


@contextmanager
def _open(known: _Archive, source: Path) -> Iterator[_Files]:
    """The files of the archive or folder. Raises UserError, now or later, if it is damaged."""
    try:
        if source.is_dir():
            yield _of_folder(known, source)
            return
        if not source.exists():
            raise UserError(why_missing(source) or f"{source}: no such file; give {known.file} or {known.folder}")
        with open_tar(source, most=_MOST_BYTES) as members:
            yield _of_archive(known, source, members)
    except PermissionError as error:
        raise UserError(f"{error.filename or source}: not readable (permission denied)") from error


def _of_folder(known: _Archive, source: Path) -> _Files:
    folder = source / known.folder if (source / known.folder).is_dir() else source
    belongs_to = next((each for each in (known, *_ALL) if (folder / each.meta).is_file()), known)
    for path in sorted(folder.iterdir()):
        if path.is_file():
            yield belongs_to.folder, path.name, partial(_read_file, known, path)


def _of_archive(known: _Archive, source: Path, members: Iterator[Member]) -> _Files:
    for member in members:
        if member.size > known.most:
            raise UserError(f"{source}: holds a file of more than {known.most >> 20} MiB, so it is not {known.title}")
        if not member.problem:
            yield *os.path.split(os.path.normpath(member.name)), member.read


def _read_file(known: _Archive, path: Path) -> bytes:
    if path.stat().st_size > known.most:
        raise UserError(f"{path}: more than {known.most >> 20} MiB, so it is no part of {known.title}")
    return read_bytes(path, known.most)


def _unpickle(source: Path, name: str, content: bytes, title: str) -> Any:
    """Unpickle the file `name` of the archive. Raises UserError if that fails."""
    try:
        return read_pickle(content)
    except Exception as error:  # a damaged pickle can raise any exception
        raise UserError(f"{source}: {name} is not a {title} pickle, or a damaged one ({reason(error)})") from error


def _read_batch(known: _Archive, source: Path, name: str, batch: Any, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 32, 32, 3] and labels int64 [n] of one batch file."""
    found, labels = (batch.get(b"data"), batch.get(known.labels)) if isinstance(batch, dict) else (None, None)
    data = found.as_bytes() if isinstance(found, PickledArray) else None
    if data is None or data.shape[1:] != (3072,) or not len(data):
        what = str(found) if isinstance(found, PickledArray) else type(found).__name__
        raise UserError(f"{source}: {name}: data is {what}; it must be uint8 [N, 3072]")
    if not isinstance(labels, list) or len(labels) != len(data) or \
            not all(type(label) is int and 0 <= label < num_classes for label in labels):
        raise UserError(f"{source}: {name}: {known.labels.decode()} must be {len(data)} numbers in 0 .. {num_classes - 1}")
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, np.int64)
