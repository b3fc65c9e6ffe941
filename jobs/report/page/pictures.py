"""The pictures of a report as data URIs: samples, strips from data to noise and back, nearest training images."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from jobs.data.dataset import ImageData
from jobs.data.pictures import ungrid
from jobs.report.board import BoardLog
from jobs.report.diffusion_facts import noised
from jobs.report.neighbours import nearest
from jobs.report.run import RunReport
from jobs.run.given import open_given
from jobs.spec.kinds import given_of
from jobs.storage.opening import open_hdf5

CELL = 40  # smaller images are enlarged to this many pixels, by a whole factor
COLUMNS, CLASSES = 6, 10  # of the picture of samples
LABELS_READ = 100_000  # of samples.h5, to find some of each class
COMPARED = 6  # samples to find the nearest training images of


@dataclass(frozen=True)
class Picture:
    uri: str
    width: int
    """On the page, in CSS pixels."""
    caption: str
    smooth: bool = False
    """True: a large image, which a browser may scale smoothly. False: a small one, which shows its pixels."""


def tiles(images: np.ndarray, columns: int, caption: str) -> Picture:
    """Tile `images`, uint8 [N, H, W, C], row by row, a transparent pixel between, for light and dark backgrounds."""
    images = images if images.shape[3] == 3 else images[:, :, :, :1]
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    canvas = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, channels + 1), np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        canvas[top:top + height, left:left + width] = np.dstack([image, np.full((height, width), 255, np.uint8)])
    # PNG of many large images would make the page heavy. The loss of WebP at this quality cannot be seen.
    uri = _uri(canvas, "PNG", optimize=True) if height <= 64 else _uri(canvas, "WEBP", quality=90)
    return Picture(uri, canvas.shape[1] * -(-CELL // height), caption, smooth=height > CELL)


def _uri(canvas: np.ndarray, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def samples_picture(run: RunReport, class_names: Sequence[str], folder: Path | None = None, name: str = "") -> Picture | None:
    """The first samples; of samples with classes a row for each of the first classes. None for a run without samples.

    `folder`: of another sampling than the main one, which is called `name`.
    """
    path, name = (folder or run.run.samples) / "samples.h5", name or run.name

    def read() -> Picture:
        with open_hdf5(path) as file:
            return _by_class(name, file, class_names) if "labels" in file else _first(name, file)
    return run.read(path, read, None)


def _first(name: str, file: h5py.File) -> Picture:
    images = file["images"][:_rows(file) * COLUMNS]
    return tiles(images, COLUMNS, f"{name}: samples 0 to {len(images) - 1}")


def _by_class(name: str, file: h5py.File, class_names: Sequence[str]) -> Picture:
    labels = file["labels"][:LABELS_READ]
    shown = [label for label in range(CLASSES if _rows(file) == 6 else 4) if np.any(labels == label)]
    per_class = min(COLUMNS, *(int((labels == label).sum()) for label in shown))
    indices = np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in shown])
    ascending = np.sort(indices)  # the only order in which h5py reads
    images = file["images"][ascending][np.searchsorted(ascending, indices)]
    words = ", ".join(class_names[label] if label < len(class_names) else str(label) for label in shown)
    return tiles(images, per_class, f"{name}: a row for each class ({words})")


def _rows(file: h5py.File) -> int:
    """Fewer rows of large images."""
    return 6 if file["images"].shape[1] <= 64 else 3


def denoising_picture(run: RunReport, log: BoardLog | None) -> Picture | None:
    """The last strip from noise to a sample that training wrote to TensorBoard."""
    if not log or "denoising" not in log.pictures:
        return None
    step, png = log.pictures["denoising"]

    def read() -> Picture:
        data = run.known_spec.data
        with Image.open(io.BytesIO(png)) as opened:
            strip = np.array(opened.convert("L" if data.channels == 1 else "RGB"))
        images = ungrid(strip.reshape(*strip.shape[:2], -1), data.image_size)
        return tiles(images, len(images), f"{run.name}, after {step:,} iterations")
    return run.read(run.run.tensorboard, read, None)


def noising_picture(run: RunReport, data: ImageData) -> Picture | None:
    """The first training image on its way to noise; None for a kind of model that adds no noise."""
    strip = noised(run.known_spec, data.images[0])
    return None if strip is None else tiles(strip.images, len(strip.images), strip.caption)


def given_picture(run: RunReport) -> Picture | None:
    """The images that the first samples are made of, above the samples; of large images that were reduced, these below. None for
    samples that are made of noise alone."""
    given = given_of(run.known_spec)

    def read() -> Picture | None:
        images = open_given(run.run)
        with open_hdf5(run.run.samples_h5) as file:
            samples = file["images"][:COLUMNS]
        if images is None or given is None:
            return None
        rows, size, words = images.rows(range(len(samples))), samples.shape[1], "above, what they are made of"
        small = _shown_as(_means(rows, given.size), size)
        if rows.shape[1] == size:
            return tiles(np.concatenate([small, samples, rows]), len(samples), f"{run.name}: {words}; below, the originals")
        return tiles(np.concatenate([small, samples]), len(samples), f"{run.name}: {words}")
    return run.read(run.run.samples_h5, read, None) if given else None


def _means(images: np.ndarray, size: int) -> np.ndarray:
    """`images` uint8 [N, H, H, C] reduced to `size`, which divides H, by means over squares."""
    count, height, _, channels = images.shape
    squares = images.reshape(count, size, height // size, size, height // size, channels)
    return np.rint(squares.mean(axis=(2, 4))).astype(np.uint8)


def _shown_as(images: np.ndarray, size: int) -> np.ndarray:
    """`images` uint8 [N, h, h, C] at `size`, a multiple of h, with visible pixels."""
    factor = size // images.shape[1]
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def neighbours_picture(run: RunReport, data: ImageData) -> Picture | None:
    """Samples above the training images nearest to them."""
    def read() -> Picture:
        with open_hdf5(run.run.samples_h5) as file:
            samples = file["images"][:COMPARED]
        index, distance = nearest(samples, data.images)
        return tiles(np.concatenate([samples, data.images[index]]), len(samples),
                     f"{run.name}: {', '.join(f'{value:.0f}' for value in distance)} grey levels apart")
    return run.read(run.run.samples_h5, read, None)
