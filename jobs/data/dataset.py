"""Open a data set, and read batches of its images.

A data set is one HDF5 file, made by `iddpm data`: `/images` uint8 [N, H, W, C], `/labels` int64 [N] if the images have
classes, and the attributes `source` and `class_names` (a JSON list). Built-in data sets (`digits`) need no file.
"""

import hashlib
import json
import os
from dataclasses import dataclass

import h5py
import numpy as np

from jobs.data.built_in import BUILT_IN_DATA
from jobs.errors import UserError

_BLOCK = 4096  # images hashed at a time


@dataclass(frozen=True, eq=False)
class ImageData:
    """`images` uint8 [N, H, W, C], an array or a read-only memory map; `labels` int64 [N], None without classes."""

    images: np.ndarray
    labels: np.ndarray | None
    class_names: list[str]
    source: str

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
    if not len(data):
        raise UserError(f"{path}: /images is empty")
    height, width, depth = data.images.shape[1:]
    if (height, width) != (image_size, image_size):
        raise UserError(f"{path}: images are {height}x{width}, but image_size is {image_size}")
    if depth != channels:
        raise UserError(f"{path}: images have {depth} channels, but channels is {channels}")
    if num_classes is not None:
        _check_labels(path, data.labels, num_classes)
    return data


def open_built_in(name: str) -> ImageData:
    """The data set `name` of jobs.data.built_in.BUILT_IN_DATA."""
    built_in = BUILT_IN_DATA[name]
    return ImageData(*built_in.read(), list(built_in.class_names), built_in.source)


def _open_hdf5(path: str) -> ImageData:
    if os.path.isdir(path):
        raise UserError(f"{path}: a folder, not an HDF5 file; make one from it with `iddpm data folder`")
    try:
        with h5py.File(path, "r") as file:
            return ImageData(_read_images(path, file), _read_labels(path, file), _read_class_names(path, file),
                             str(file.attrs.get("source", "")))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; make a data set with `iddpm data digits`, `folder`, `cifar10` or "
                        f"`npz`, or use a built-in one: {', '.join(BUILT_IN_DATA)}") from error
    except PermissionError as error:
        raise UserError(f"{path}: not readable (permission denied)") from error
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(f"{path}: not an HDF5 file, or a damaged one ({error})") from error


def _dataset(path: str, file: h5py.File, name: str) -> h5py.Dataset | None:
    found = file.get(name)
    if found is not None and not isinstance(found, h5py.Dataset):
        raise UserError(f"{path}: /{name} is a group; a data set of numbers is needed there")
    return found


def _read_images(path: str, file: h5py.File) -> np.ndarray:
    dataset = _dataset(path, file, "images")
    if dataset is None:
        raise UserError(f"{path}: has no /images; it holds: {', '.join(file) or 'nothing'}")
    if dataset.dtype != np.uint8 or dataset.ndim != 4:
        raise UserError(f"{path}: /images is {dataset.dtype} with shape {list(dataset.shape or [])}; "
                        "it must be uint8 [N, H, W, C]")
    contiguous = dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
    offset = dataset.id.get_offset() if contiguous else None  # None also for external storage and unwritten data
    if offset is None:
        return dataset[:]
    return np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=dataset.shape)


def _read_labels(path: str, file: h5py.File) -> np.ndarray | None:
    dataset = _dataset(path, file, "labels")
    if dataset is None:
        return None
    if dataset.dtype.kind not in "iu" or dataset.ndim != 1:
        raise UserError(f"{path}: /labels is {dataset.dtype} with shape {list(dataset.shape or [])}; "
                        "it must be int64 [N]")
    if len(dataset) != len(file["images"]):
        raise UserError(f"{path}: {len(dataset)} labels for {len(file['images'])} images")
    return dataset[:].astype(np.int64)


def _read_class_names(path: str, file: h5py.File) -> list[str]:
    try:
        names = json.loads(file.attrs.get("class_names", "[]"))
    except (TypeError, ValueError):
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


def fingerprint(data: ImageData) -> str:
    """sha256 in hex of shape, images and labels. Class names, source and storage do not count."""
    digest = hashlib.sha256(f"images {data.images.shape}".encode())
    for start in range(0, len(data), _BLOCK):
        digest.update(np.ascontiguousarray(data.images[start:start + _BLOCK]).data)
    if data.labels is not None:
        digest.update(b"labels")
        digest.update(np.ascontiguousarray(data.labels).data)
    return digest.hexdigest()


def load_batch(data: ImageData, indices: np.ndarray) -> np.ndarray:
    """Read the images at `indices` [n], in that order: uint8 [n, C, H, W], contiguous."""
    return np.ascontiguousarray(data.images[indices].transpose(0, 3, 1, 2))
