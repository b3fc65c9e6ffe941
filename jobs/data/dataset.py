"""Open a data set, and read batches of its images.

A data set is one HDF5 file, made by `iddpm data`: `/images` uint8 [N, H, W, C], `/labels` int64 [N] if the images have
classes, and the attributes `source` and `class_names` (a JSON list). Built-in data sets (`digits`) need no file.
"""

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import h5py
import numpy as np

from jobs.data.built_in import BUILT_IN_DATA
from jobs.errors import UserError
from jobs.storage.datasets import Found, find
from jobs.storage.disk_errors import why_missing
from jobs.storage.names import listed, reason
from jobs.storage.opening import UNREADABLE, is_hdf5, open_hdf5
from jobs.storage.stamps import Stamp, stamps_of
from jobs.terminal import printable

_BLOCK, _BLOCK_BYTES = 4096, 64 << 20  # images, and their bytes, hashed at a time


@dataclass(frozen=True, eq=False)
class ImageData:
    """`images` uint8 [N, H, W, C], an array or a read-only memory map; `labels` int64 [N], None without classes."""

    images: np.ndarray
    labels: np.ndarray | None
    class_names: list[str]
    source: str
    stamps: tuple[Stamp, ...] = ()
    """Those of the files that hold images and labels, when they were opened; none where the data are in no file."""
    skipped: int | None = None
    """How many images were left out when the file was made; None where that is not known."""

    def __len__(self) -> int:
        return len(self.images)


def open_data(path: str, image_size: int, channels: int, num_classes: int | None = None) -> ImageData:
    """Open the HDF5 file `path`, or the built-in data set of that name.

    If `num_classes` is given, every image needs a label in 0 .. num_classes - 1. Contiguous images are memory-mapped: all
    processes of a node share one copy, and random batches cost no HDF5 calls. Chunked or compressed images are read into
    memory. Raises UserError if the file cannot be read, or if images or labels do not fit the arguments.
    """
    path = os.fspath(path)
    data = open_built_in(path) if path in BUILT_IN_DATA else _open_hdf5(path)
    if 0 in data.images.shape:
        raise UserError(f"{path}: /images is empty")
    height, width, depth = data.images.shape[1:]
    if (height, width) != (image_size, image_size):
        raise UserError(f"{path}: images are {height}x{width}, but image_size is {image_size}{order_hint(data.images.shape)}")
    if depth != channels:
        raise UserError(f"{path}: images have {depth} channels, but channels is {channels}")
    if num_classes is not None:
        _check_labels(path, data.labels, num_classes)
    return data


def order_hint(shape: tuple[int, ...]) -> str:
    """Words for a message about images of `shape` if their axes seem to be in torch's order, else ""."""
    _, height, width, depth = shape
    if height > 4 or width <= 4 or depth <= 4:
        return ""
    return f"; {list(shape)} looks like [N, C, H, W], and [N, H, W, C] is needed: numpy.transpose(images, (0, 2, 3, 1))"


def open_built_in(name: str) -> ImageData:
    """The data set `name` of jobs.data.built_in.BUILT_IN_DATA."""
    built_in = BUILT_IN_DATA[name]
    return ImageData(*built_in.read(), list(built_in.class_names), built_in.source)


def _open_hdf5(path: str) -> ImageData:
    if is_archive(path):
        raise UserError(f"{path}: an .npz file or another archive, not an HDF5 file; `iddpm data npz` makes one from it")
    with opened(path) as file:
        images, labels = find_images(path, file), find_labels(path, file)
        mapped, stamps = images.mapped(), stamps_of(images.files | (labels.files if labels else set()))
        return ImageData(images.read() if mapped is None else mapped, read_labels(labels) if labels else None,
                         _read_class_names(path, file), _read_source(file), stamps, _read_skipped(file))


def is_archive(path: str) -> bool:
    """Whether the file `path` is a zip archive, as an .npz is. Bytes of images may look like the end of one by chance."""
    return os.path.isfile(path) and zipfile.is_zipfile(path) and not is_hdf5(path)  # opening a pipe would wait for its writer


@contextmanager
def opened(path: str, unfit: str = "not an HDF5 file, or a damaged one") -> Iterator[h5py.File]:
    """The HDF5 file `path`, open for reading. Raises UserError, which names it, where it is `unfit`."""
    if os.path.isdir(path):
        raise UserError(f"{path}: a folder, not an HDF5 file; make one from it with `iddpm data folder`")
    try:
        with open_hdf5(path) as file:
            yield file
    except FileNotFoundError as error:
        raise UserError(why_missing(path) or f"{path}: no such file; make a data set with `iddpm data`, "
                        f"or use a built-in one: {', '.join(BUILT_IN_DATA)}") from error
    except PermissionError as error:
        raise UserError(f"{path}: not readable (permission denied)") from error
    except UNREADABLE as error:
        raise UserError(why_missing(path) or f"{path}: {unfit} ({reason(error)})") from error


def find_images(path: str, file: h5py.File) -> Found:
    """/images of `file`, uint8 [N, H, W, C]. Raises UserError if it is not so, or if images are missing."""
    images = find(path, file, "images")
    if images is None:
        raise UserError(f"{path}: has no /images; it holds: {listed(file)}")
    if images.dtype != np.uint8 or len(images.shape or ()) != 4:
        raise UserError(f"{images.where} is {printable(str(images.dtype))} with shape {list(images.shape or [])}; "
                        "it must be uint8 [N, H, W, C]")
    return images


def find_labels(path: str, file: h5py.File) -> Found | None:
    """/labels of `file`, whole numbers [N], or None. Raises UserError if they are not so, or not as many as images."""
    labels = find(path, file, "labels")
    if labels is None:
        return None
    if labels.dtype.kind not in "iu" or len(labels.shape or ()) != 1:
        raise UserError(f"{labels.where} is {printable(str(labels.dtype))} with shape {list(labels.shape or [])}; "
                        "it must be int64 [N]")
    if len(labels.dataset) != len(file["images"]):
        raise UserError(f"{path}: {len(labels.dataset)} labels for {len(file['images'])} images")
    return labels


def read_labels(labels: Found) -> np.ndarray:
    """Labels int64 [N]. Raises UserError for numbers that int64 does not hold."""
    found = labels.read()
    if found.dtype.kind == "u" and found.size and found.max() > np.iinfo(np.int64).max:
        raise UserError(f"{labels.where} has the label {found.max()}; labels are whole numbers from 0")
    return found.astype(np.int64)


def _read_source(file: h5py.File) -> str:
    """The attribute `source`, which is only shown, "" where there is none that can be read."""
    try:
        return str(file.attrs.get("source", ""))
    except UNREADABLE:
        return ""


def _read_skipped(file: h5py.File) -> int | None:
    """The attribute `skipped`, which is only shown, None where there is none that can be read."""
    try:
        return int(file.attrs["skipped"])
    except UNREADABLE:
        return None


def _read_class_names(path: str, file: h5py.File) -> list[str]:
    try:
        names = json.loads(file.attrs.get("class_names", "[]"))
    except UNREADABLE:  # RecursionError too
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: attribute class_names must be a JSON list of strings")
    return names


def _check_labels(path: str, labels: np.ndarray | None, num_classes: int) -> None:
    if labels is None:
        raise UserError(f"{path}: has no /labels, which a class-conditional model needs")
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise UserError(f"{path}: label {labels[outside[0]]} of image {outside[0]} is outside 0 .. {num_classes - 1} "
                        f"(num_classes is {num_classes}); {len(outside)} such labels in all")


def fingerprint(data: ImageData, watch: Callable[[np.ndarray], None] | None = None) -> str:
    """sha256 in hex of shape, images and labels. Class names, source and storage do not count.

    `watch` sees each block of images, uint8 [n, H, W, C], so that who wants more of all images reads them once.
    """
    digest = hashlib.sha256(f"images {data.images.shape}".encode())
    rows = max(1, min(_BLOCK, _BLOCK_BYTES // max(1, math.prod(data.images.shape[1:]))))
    for start in range(0, len(data), rows):
        block = np.ascontiguousarray(data.images[start:start + rows])
        digest.update(block.data)
        if watch:
            watch(block)
    if data.labels is not None:
        digest.update(b"labels")
        digest.update(np.ascontiguousarray(data.labels).data)
    return digest.hexdigest()


def load_batch(data: ImageData, indices: np.ndarray) -> np.ndarray:
    """Read the images at `indices` [n], in that order: uint8 [n, C, H, W], contiguous."""
    return np.ascontiguousarray(data.images[indices].transpose(0, 3, 1, 2))
