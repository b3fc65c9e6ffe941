"""Open images to compare: data sets, our samples, other models' samples, and reference files with statistics.

No torch here: `iddpm check` must find an unfit reference on a login node, before anything is submitted.
"""

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np

from jobs.data.built_in import BUILT_IN_DATA
from jobs.data.dataset import (
    ImageData,
    find_images,
    find_labels,
    is_archive,
    open_built_in,
    open_data,
    opened,
    order_hint,
    read_labels,
)
from jobs.data.image_files import Done, Header, decode_image, in_words, list_images, read_header, read_needed_bits
from jobs.data.npz_arrays import Npz, open_npz
from jobs.data.statistics import statistics_problem
from jobs.errors import UserError
from jobs.spec.features import BUILT_IN
from jobs.spec.metrics import METRICS
from jobs.storage.disk_errors import why_missing
from jobs.storage.names import listed, reason
from jobs.storage.opening import UNREADABLE, open_hdf5
from jobs.storage.sealed import check_seal, has_seal
from jobs.storage.stamps import stamps_of
from jobs.terminal import printable

MOST_CLASSES = 100_000  # that a classifier is trained on
# Names of mean and covariance in published reference files, for each kind of features (guided-diffusion; EDM has "pool").
STATISTICS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


class ImageFolder:
    """The images in and below a folder, all squares of one size, as uint8 [N, H, W, C]: a slice decodes its images.

    C is 1 where all images are grey, and else 3. Raises UserError, on opening or slicing, that names the file which is not a
    whole image of that size.
    """

    def __init__(self, folder: Path):
        listing = list_images(folder)
        self.folder, self.paths, self._left_out = folder, listing.images, listing.left_out()
        self._done: dict[str, frozenset[Done]] = {}
        first = self._header(self.paths[0])
        if first.width != first.height:
            raise UserError(f"{folder / printable(self.paths[0])}: {first.width}x{first.height}; samples must be square")
        is_grey = all(self._header(name).is_grey for name in self.paths)
        self.shape = (len(self.paths), first.height, first.width, 1 if is_grey else 3)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.stack([self._image(name) for name in self.paths[rows]])

    def remarks(self) -> list[str]:
        """What was left out, and done to the images that were sliced so far, in words."""
        remarks = [f"{self.folder}: left out {self._left_out}"] if self._left_out else []
        done = Counter(key for of_image in self._done.values() for key in of_image)
        if done:
            remarks.append(f"{self.folder}: {in_words(done)}")
        return remarks

    @cached_property
    def _bits(self) -> int:
        """The bits that all images of 16 bits need, so that all are made as bright."""
        return max(read_needed_bits(self.folder / name) for name in self.paths if self._header(name).is_deep)

    def _header(self, name: str) -> Header:
        found = read_header(self.folder / name)
        if isinstance(found, str):
            raise UserError(f"{self.folder / printable(name)}: {found}")
        return found

    def _image(self, name: str) -> np.ndarray:
        _, height, width, channels = self.shape
        header = self._header(name)
        if (header.width, header.height) != (width, height):
            raise UserError(f"{self.folder / printable(name)}: {header.width}x{header.height}, but {printable(self.paths[0])} is "
                            f"{width}x{height}")
        image = decode_image(self.folder / name, width, channels, self._bits if header.is_deep else 16)
        if isinstance(image, str):
            raise UserError(f"{self.folder / printable(name)}: {image}")
        self._done[name] = image.done
        return image.pixels


def open_images(path: str, image_size: int | None = None, channels: int | None = None) -> ImageData:
    """Open the images of a data set (HDF5 or built-in), of our samples.h5, of an .npz (arr_0, arr_1) or of a folder.

    `.images` uint8 [N, H, W, C] is sliced like an array, and may be read or decoded only then. Raises UserError if there
    are no images, or if they are not squares, of the given size and channels.
    """
    if path in BUILT_IN_DATA:
        images = open_built_in(path)
    elif Path(path).is_dir():
        # Readers of images only ask for `shape`, `len` and slices, and a folder has these.
        images = ImageData(cast(np.ndarray, ImageFolder(Path(path))), None, [], f"folder {path}")
    elif is_archive(path):
        found, _, names = _open_npz(path)
        if found is None:
            raise UserError(f"{path}: has no images (arr_0); it holds {listed(names)}")
        images = found
    else:
        images = _open_hdf5(path)
    _check_shape(path, images, image_size, channels)
    return images


def remarks_of(images: ImageData) -> list[str]:
    """What was left out of a folder of images, or done to the images that were read so far, or to their file, in words."""
    return images.images.remarks() if isinstance(images.images, ImageFolder | StoredSamples) else []


def _check_shape(path: str, images: ImageData, image_size: int | None, channels: int | None) -> None:
    _, height, width, depth = images.images.shape
    if 0 in images.images.shape:
        raise UserError(f"{path}: holds no images")
    if image_size is not None and (height, width) != (image_size, image_size):
        raise UserError(f"{path}: images are {height}x{width}, but image_size is {image_size}{order_hint(images.images.shape)}")
    if height != width:
        raise UserError(f"{path}: images are {height}x{width}; they must be square{order_hint(images.images.shape)}")
    if channels is not None and depth != channels:
        raise UserError(f"{path}: images have {depth} channels, but channels is {channels}")


class StoredSamples:
    """/images of a samples.h5, uint8 [N, H, W, C]: a slice reads its images. The file stays open meanwhile.

    Raises UserError, on opening or slicing, where they are missing or damaged.
    """

    def __init__(self, path: str, remarks: list[str]):
        self._file, self._remarks = open_hdf5(path), remarks
        self._found = find_images(path, self._file)
        self.shape = self._found.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        try:
            return self._found.dataset[rows]
        except UNREADABLE as error:
            raise UserError(f"{self._found.where} cannot be read, the file is damaged ({reason(error)})") from error

    def remarks(self) -> list[str]:
        """What another program did to the file, in words."""
        return self._remarks


def _open_hdf5(path: str) -> ImageData:
    if not os.path.exists(path):
        raise UserError(why_missing(path)
                        or f"{path}: no such file; images are an HDF5 file, an .npz with arr_0, a folder, or digits")
    remarks: list[str] = []
    try:
        if os.path.isfile(path) and has_seal(Path(path)):
            check_seal(Path(path), remarks.append)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from error
    with opened(path, "neither HDF5 nor .npz, or damaged") as file:
        images, labels = find_images(path, file), find_labels(path, file)
        if "sample_index" in file:
            return ImageData(cast(np.ndarray, StoredSamples(path, remarks)), read_labels(labels) if labels else None, [], path,
                             stamps_of(images.files | (labels.files if labels else set())))
        shape = images.shape
    return open_data(path, shape[1], shape[3])


def _open_npz(path: str) -> tuple[ImageData | None, dict[str, tuple[np.ndarray, np.ndarray]], list[str]]:
    """Images (None without arr_0), (mean [D], covariance [D, D]) by key of STATISTICS, and the names of all arrays."""
    with open_npz(path) as npz:
        names, stamps = npz.names, stamps_of([path])
        statistics = {part: (npz.read(mean), npz.read(covariance))
                      for part, (mean, covariance) in STATISTICS.items() if mean in names and covariance in names}
        array = _images_of(npz) if "arr_0" in names else None
        labels = None if array is None else _labels_of(npz, len(array))
    for part, (mean, covariance) in statistics.items():
        if problem := statistics_problem(mean, covariance, *STATISTICS[part]):
            raise UserError(f"{path}: {problem}")
        statistics[part] = mean.astype(np.float64), covariance.astype(np.float64)
    return None if array is None else ImageData(array, labels, [], path, stamps), statistics, names


def _images_of(npz: Npz) -> np.ndarray:
    header = npz.header("arr_0")
    if header.dtype != np.uint8 or len(header.shape) != 4:
        raise UserError(f"{npz.path}: arr_0 is {header}; it must be uint8 [N, H, W, C]")
    return npz.array("arr_0")


def _labels_of(npz: Npz, count: int) -> np.ndarray | None:
    """The labels int64 [count] in arr_1; None where there are none, since some published files keep other data in arr_1."""
    if "arr_1" not in npz.names:
        return None
    header = npz.header("arr_1")
    return npz.read("arr_1").astype(np.int64) if header.dtype.kind in "iu" and header.shape == (count,) else None


@dataclass(frozen=True, eq=False)
class Reference:
    """What samples are compared with: images, or means and covariances of Inception features, or both."""

    path: str
    images: ImageData | None
    statistics: dict[str, tuple[np.ndarray, np.ndarray]]
    """(mean [D], covariance [D, D]) by key of STATISTICS."""
    names: str = ""
    """Names of the arrays in an .npz, for messages."""

    @property
    def classes(self) -> int | None:
        """Number of classes of its labels, which are 0, 1, 2, ...; None where it has no labels."""
        if self.images is None or self.images.labels is None or not len(self.images.labels):
            return None
        return int(self.images.labels.max()) + 1

    def lacks(self, metric: str, features: str) -> str | None:
        """The reason why `metric` cannot be computed with `features`, or None if it can."""
        part = METRICS[metric].needs
        if self.images is not None or not METRICS[metric].compares:
            return None
        if part == "rows":
            return f"{self.path}: has no images (arr_0), which {metric} needs; it holds {self.names}"
        if part not in self.statistics:
            return f"{self.path}: has neither images (arr_0) nor {' and '.join(STATISTICS[part])}, which {metric} needs; " \
                   f"it holds {self.names}"
        if features in BUILT_IN:
            return f"{self.path}: has no images (arr_0), only statistics of Inception features, and features is {features}"
        return None


def open_reference(path: str, image_size: int | None = None, channels: int | None = None) -> Reference:
    """Open a published VIRTUAL_*.npz (mu, sigma, mu_s, sigma_s, arr_0), an EDM .npz (mu, sigma), or images (`open_images`).

    Raises UserError if `path` is none of these, or if its images are not squares of this size and number of channels.
    """
    if path in BUILT_IN_DATA or not is_archive(path):
        return Reference(path, open_images(path, image_size, channels), {})
    images, statistics, names = _open_npz(path)
    if images is not None:
        _check_shape(path, images, image_size, channels)
    elif not statistics:
        raise UserError(f"{path}: neither images (arr_0) nor statistics (mu, sigma); it holds {listed(names)}")
    return Reference(path, images, statistics, listed(names))


def reference_problems(reference: Reference, metrics: Collection[str], features: str) -> list[str]:
    """One message for each metric or classifier that cannot be computed from `reference`."""
    problems = [problem for metric in metrics if (problem := reference.lacks(metric, features))]
    if reference.images is not None:
        few = [metric for metric in metrics if METRICS[metric].compares and len(reference.images) < METRICS[metric].least]
        problems += [f"{reference.path}: has {len(reference.images)} images, but {metric} needs at least {METRICS[metric].least}"
                     for metric in few]
    if features in BUILT_IN and BUILT_IN[features].needs_labels and (reference.images is None or reference.images.labels is None):
        problems.append(f"{reference.path}: has no labels, which features: {features} is trained on")
    elif features in BUILT_IN and BUILT_IN[features].needs_labels and reference.images and reference.images.labels is not None:
        labels = reference.images.labels
        if labels.min() < 0 or labels.max() >= MOST_CLASSES:
            problems.append(f"{reference.path}: labels go from {labels.min()} to {labels.max()}, and features: {features} is "
                            f"trained on labels 0 to at most {MOST_CLASSES - 1}")
    return problems
