"""Make a data set from idx files: MNIST (LeCun et al. 1998), and Fashion-MNIST, KMNIST and EMNIST, which have its format.

An idx file begins with two zero bytes, a type (8 is unsigned bytes), the number of axes, and their lengths as big-endian uint32;
values follow. See http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import math
import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import numpy as np

from jobs.data.importers.averaged import averaged
from jobs.data.importers.class_names import ClassNames, read_class_names
from jobs.data.importers.writer import Summary, Writer, blocks_of
from jobs.errors import UserError
from jobs.storage.datasets import bomb
from jobs.storage.names import listed, reason

_BYTES = 8  # code of the type
_NAME = re.compile(r"(?P<before>.*?)(?P<split>train|t10k|test)-(?P<what>images|labels)[-.]idx[13]-ubyte(\.gz)?")
_SPLITS = {"train": ("train",), "test": ("t10k", "test")}
_USUAL = "train-images-idx3-ubyte and train-labels-idx1-ubyte (t10k-... for the test images), packed with gzip or not"

Split = Literal["train", "test"]


def import_mnist(source: Path, writer: Writer, split: Split, labels: Path | None = None, class_names: Path | None = None,
                 image_size: int | None = None) -> Summary:
    """Write the grey images of a pair of idx files. `image_size` averages them down. They pass through memory in blocks.

    `source` is a folder with files of the usual names, of which `split` chooses, or the file of the images; its labels are beside
    it, or in the file `labels`. EMNIST's files store each image on its side: it is turned upright, and its mapping, if it
    is there, gives the class names. Raises UserError that names the file which is missing or damaged.
    """
    images_path = _find_images(source, split) if source.is_dir() else source
    labels_path = labels or _labels_beside(images_path)
    is_emnist = images_path.name.startswith("emnist")
    names = _class_names(images_path, class_names)
    remarks = ["EMNIST's files store images on their side: turned upright"] if is_emnist else []
    with _open_idx(images_path, 3) as (shape, stream):
        if shape[1] != shape[2]:
            raise UserError(f"{images_path}: images are {shape[1]}x{shape[2]}; they must be square")
        found = _read_labels(labels_path, shape[0], images_path)
        usual = 1 if "emnist-letters" in images_path.name else 0
        first = usual if names is None or names.first is None else names.first
        ids = found - first
        if ids.min() < 0:
            raise UserError(f"{labels_path}: label 0 of image {np.argmin(ids)}, but labels start at {first}")
        if names:
            names.check(ids, str(labels_path))
        if first:
            remarks.append(f"labels from {first} became ids from 0")
        blocks = (block.transpose(0, 2, 1)[..., None] if is_emnist else block[..., None] for block in blocks_of(stream, shape))
        small = averaged(blocks, (*shape, 1), image_size, str(images_path))
        return writer.write(small.blocks, small.shape, ids, names.names if names else [], f"idx file {images_path}{small.words}",
                            remarks=remarks)


def _find_images(folder: Path, split: Split) -> Path:
    """The file of images of `split` in `folder`, or in its `raw`, where torchvision puts files.

    Raises UserError if there is none, or if there are several sets.
    """
    found: dict[str, Path] = {}
    folder = folder / "raw" if (folder / "raw").is_dir() else folder
    for path in sorted(folder.iterdir(), reverse=True):  # a file that is not packed comes last, and counts
        match = _NAME.fullmatch(path.name)
        if match and match["what"] == "images" and match["split"] in _SPLITS[split] and path.is_file():
            found[match["before"] + match["split"]] = path
    if not found:
        held = listed(sorted(path.name for path in folder.iterdir()))
        raise UserError(f"{folder}: has no {split} images; usual names are {_USUAL}; it holds: {held}")
    if len(found) > 1:
        raise UserError(f"{folder}: holds several sets of {split} images; give the file of one: "
                        f"{listed(path.name for path in sorted(found.values()))}")
    return next(iter(found.values()))


def _labels_beside(images: Path) -> Path:
    """The file of labels that belongs to the file `images` by its name."""
    match = _NAME.fullmatch(images.name)
    if match and match["what"] == "labels":
        raise UserError(f"{images}: a file of labels; give that of the images, or their folder")
    if match is None:
        raise UserError(f"{images}: nothing tells where its labels are; name their file with --labels" if images.is_file() else
                        f"{images}: no such file or folder")
    start = f"{match['before']}{match['split']}-labels"
    beside = [images.with_name(f"{start}{dot}idx1-ubyte{packed}") for packed in ("", ".gz") for dot in "-."]
    if found := next((path for path in beside if path.is_file()), None):
        return found
    raise UserError(f"{images}: its labels, {beside[0].name} or {beside[2].name}, are not beside it; "
                    "name their file with --labels")


def _class_names(images: Path, given: Path | None) -> ClassNames | None:
    """Class names of the file `given`, or of EMNIST's mapping beside the images; None if there are none."""
    if given:
        return read_class_names(given)
    match = _NAME.fullmatch(images.name)
    mapping = images.with_name(f"{match['before']}mapping.txt") if match and match["before"] else None
    return read_class_names(mapping) if mapping and mapping.is_file() else None


@contextmanager
def _open_idx(path: Path, axes: int) -> Iterator[tuple[tuple[int, ...], IO[bytes]]]:
    """The shape of an idx file of unsigned bytes, and a stream of its values.

    Raises UserError if the file is damaged or of another kind, now or while it is read.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: not a regular file")
        with open(path, "rb") as packed:
            is_packed = packed.read(2) == b"\x1f\x8b"
            packed.seek(0)
            stream: IO[bytes] = gzip.GzipFile(fileobj=packed) if is_packed else packed  # type: ignore[assignment]
            shape = _read_header(path, stream, axes)
            size, held = 4 + 4 * axes + math.prod(shape), os.fstat(packed.fileno()).st_size
            if not is_packed and size != held:
                raise UserError(f"{path}: has {held:,} bytes, but its header says {list(shape)}, which is {size:,}; "
                                "the file is damaged")
            if is_packed and (problem := bomb(size, held)):
                raise UserError(f"{path}: {problem}")
            yield shape, stream
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, EOFError, ValueError, zlib.error, struct.error) as error:
        raise UserError(f"{path}: not an idx file, or a damaged one ({reason(error)})") from error


def _read_header(path: Path, stream: IO[bytes], axes: int) -> tuple[int, ...]:
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0":
        raise UserError(f"{path}: does not begin as an idx file does; usual names are {_USUAL}")
    kind = {1: "labels", 3: "images"}
    if start[2] != _BYTES or start[3] != axes:
        what = f"holds {kind[start[3]]}" if start[2] == _BYTES and start[3] in kind else \
            f"has {start[3]} axes of type {start[2]:#04x}"
        raise UserError(f"{path}: {what}; {kind[axes]} have {axes} {'axis' if axes == 1 else 'axes'} of unsigned bytes (0x08)")
    shape = struct.unpack(f">{axes}I", stream.read(4 * axes))
    if 0 in shape:
        raise UserError(f"{path}: is empty: its header says {list(shape)}")
    return shape


def _read_labels(path: Path, count: int, images: Path) -> np.ndarray:
    """Labels int64 [count]."""
    with _open_idx(path, 1) as (shape, stream):
        if shape[0] != count:
            raise UserError(f"{path}: {shape[0]} labels for the {count} images of {images.name}")
        return np.concatenate([block.astype(np.int64) for block in blocks_of(stream, shape)])
