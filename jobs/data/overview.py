"""Look at a data set: numbers of its images and classes, and a picture of the first images of each class."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jobs.data.dataset import ImageData, fingerprint
from jobs.data.pictures import GAP, SHOWN_SIZE
from jobs.storage.names import shortened

MOST_CLASSES = 100  # that are drawn, and listed
_LARGEST = 128  # pixels; larger images are drawn with this side
_LETTER, _MARGIN = 12, 8  # pixels: height of letters, and room beside names
_WIDEST_NAME = 200  # pixels


@dataclass(frozen=True)
class ClassCount:
    """The class `label` with its `name`, "" if the file has none, and its number of images."""

    label: int
    name: str
    count: int

    @property
    def shown(self) -> str:
        """The name, in bounded length; "" if it only repeats the number."""
        return "" if self.name == str(self.label) else shortened(self.name, 40)

    def __str__(self) -> str:
        return f"{self.label} {self.shown}".rstrip()


@dataclass(frozen=True)
class Overview:
    """`classes` in the order of their ids, [] without labels; of each channel `mean` and `std` in 0 .. 255; `sha256` as runs
    record it."""

    classes: list[ClassCount]
    mean: list[float]
    std: list[float]
    sha256: str


def overview(data: ImageData, report: Callable[[int, int], None] | None = None) -> Overview:
    """Read all images once. `report(done, total)` is called after each block of images."""
    channels = data.images.shape[3]
    values = np.zeros((channels, 256), np.int64)  # how often each channel has each value, so that sums are exact
    done = 0

    def count(block: np.ndarray) -> None:
        nonlocal done
        for channel in range(channels):
            values[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
        done += len(block)
        if report:
            report(done, len(data))

    sha256 = fingerprint(data, count)
    shares = values / values.sum(axis=1, keepdims=True)
    mean = shares @ np.arange(256)
    variance = [share @ (np.arange(256) - middle) ** 2 for share, middle in zip(shares, mean, strict=True)]
    return Overview(_classes(data), mean.tolist(), np.sqrt(variance).tolist(), sha256)


def _classes(data: ImageData) -> list[ClassCount]:
    """The classes that have a name or an image."""
    if data.labels is None:
        return []
    found = dict(zip(*(part.tolist() for part in np.unique(data.labels, return_counts=True)), strict=True))
    names = dict(enumerate(data.class_names))
    return [ClassCount(label, names.get(label, ""), found.get(label, 0)) for label in sorted(found.keys() | names.keys())]


def draw(data: ImageData, classes: list[ClassCount], each: int) -> tuple[np.ndarray, str]:
    """A picture uint8 [pixels, pixels, C], C = 1 or 3, and what is on it, in words.

    The first `each` images of each of the first 100 classes, in a row with the name of the class; without classes, `each` rows
    of `each` images. Small images are enlarged, unsmoothed; large ones are made smaller.
    """
    if not classes or data.labels is None:
        indices = np.arange(min(len(data), each ** 2))
        rows = [("", indices[start:start + each]) for start in range(0, len(indices), each)]
        return _sheet(data, rows, each), f"the first {len(indices):,} images"
    drawn = classes[:MOST_CLASSES]
    rows = [(str(one), np.flatnonzero(data.labels == one.label)[:each]) for one in drawn]
    of = f"the first {len(drawn)} of {len(classes):,} classes" if len(drawn) < len(classes) else "each class"
    return _sheet(data, rows, max(len(indices) for _, indices in rows)), f"the first {each} images of {of}"


def _sheet(data: ImageData, rows: list[tuple[str, np.ndarray]], each: int) -> np.ndarray:
    """Rows of (name, indices of images), on white, in as many columns of rows as make the picture about a square."""
    font = _font()
    channels = 3 if data.images.shape[3] == 3 else 1
    cell = _shown(data, int(rows[0][1][0]) if len(rows[0][1]) else 0, channels).shape[0] + GAP
    widest = math.ceil(max(font.getlength(name) for name, _ in rows))
    beside = min(widest, _WIDEST_NAME) + 2 * _MARGIN if widest else 0
    height, width = max(cell, _LETTER + 2 * GAP), beside + each * cell
    columns = next(columns for columns in range(1, len(rows) + 1) if -(-len(rows) // columns) * height <= 1.2 * columns * width)
    high = -(-len(rows) // columns)
    canvas = np.full((high * height + GAP, columns * width + GAP, channels), 255, np.uint8)
    letters = Image.new("L", (canvas.shape[1], canvas.shape[0]), 255)
    for number, (name, indices) in enumerate(rows):
        top, left = number % high * height + GAP, number // high * width + GAP
        _write(letters, (left + _MARGIN, top + (height - GAP) // 2), name, font)
        for place, index in enumerate(indices.tolist()):
            start = left + beside + place * cell
            canvas[top:top + cell - GAP, start:start + cell - GAP] = _shown(data, index, channels)
    return np.minimum(canvas, np.asarray(letters)[..., None])


def _shown(data: ImageData, index: int, channels: int) -> np.ndarray:
    """The image `index` as it is drawn, uint8 [H, W, channels]."""
    image = data.images[index:index + 1][0][..., :channels]
    if (largest := max(image.shape[:2])) > _LARGEST:
        size = (max(1, image.shape[1] * _LARGEST // largest), max(1, image.shape[0] * _LARGEST // largest))
        small = Image.fromarray(image if channels == 3 else image[..., 0]).resize(size, Image.Resampling.BOX)
        return np.asarray(small).reshape(size[1], size[0], channels)
    scale = max(1, SHOWN_SIZE // largest)
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def _write(letters: Image.Image, place: tuple[int, int], name: str, font: ImageFont.FreeTypeFont) -> None:
    """Write `name` to the right of `place`, in the middle of its height; a name that is too wide is cut."""
    text = name
    while font.getlength(text) > _WIDEST_NAME:
        text = text.removesuffix("…")[:-1] + "…"
    ImageDraw.Draw(letters).text(place, text, fill=40, font=font, anchor="lm")


def _font() -> ImageFont.FreeTypeFont:
    """A font with most letters of Europe; Pillow's own has those of English alone."""
    import matplotlib
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", _LETTER)
