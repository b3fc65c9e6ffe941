"""Average images of one size down to a smaller one: each new pixel is the mean of the area that it covers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from jobs.errors import UserError

_BLOCK_BYTES = 8 << 20  # of pixels that are averaged at a time; float64 takes eight times as much


@dataclass(frozen=True, eq=False)
class Averaged:
    """`blocks` of images uint8 [n, H, W, C] that add up to `shape` [N, H, W, C]; `words` say what was done, for `source`."""

    blocks: Iterable[np.ndarray]
    shape: tuple[int, ...]
    words: str = ""


def averaged(blocks: Iterable[np.ndarray], shape: tuple[int, ...], image_size: int | None, where: str) -> Averaged:
    """Average square images of `shape` [N, S, S, C], which come in `blocks`, down to `image_size`; None leaves them as they are.

    Raises UserError that begins with `where` if they would have to be enlarged.
    """
    count, side, _, channels = shape
    if image_size is None or image_size == side:
        return Averaged(blocks, shape)
    check_not_enlarged(side, image_size, where)
    return Averaged(_each(blocks, image_size), (count, image_size, image_size, channels), words_of(side, image_size))


def words_of(side: int, image_size: int) -> str:
    """What was done, for `source`; "" if nothing."""
    return "" if image_size == side else f", averaged from {side}x{side} to {image_size}x{image_size}"


def check_not_enlarged(side: int, image_size: int, where: str) -> None:
    """Raise UserError that begins with `where` if images of `side` are smaller than `image_size`."""
    if image_size > side:
        raise UserError(f"{where}: images are {side}x{side}, smaller than image_size {image_size}; they would be enlarged")


def _each(blocks: Iterable[np.ndarray], image_size: int) -> Iterator[np.ndarray]:
    for block in blocks:
        rows = max(1, _BLOCK_BYTES // max(1, block[0].size))
        for start in range(0, len(block), rows):
            yield average(block[start:start + rows], image_size)


def average(images: np.ndarray, image_size: int) -> np.ndarray:
    """Average square images uint8 [n, S, S, C] down to uint8 [n, image_size, image_size, C]; halves are rounded up.

    All sums are of whole numbers and exact, also in float64, which adds such numbers below 2**53 without error in any order:
    every machine gives the same pixels.
    """
    side = images.shape[1]
    if side % image_size == 0:
        area, step = (side // image_size) ** 2, side // image_size
        sums = np.zeros((len(images), image_size, image_size, images.shape[3]), np.int64)
        for row, column in np.ndindex(step, step):
            sums += images[:, row::step, column::step]
    else:
        area, weights = side * side, _overlaps(side, image_size)
        rows = np.tensordot(weights, images.astype(np.float64), (1, 1))  # [new row, n, old column, C]
        sums = np.tensordot(weights, rows, (1, 2)).transpose(2, 1, 0, 3).astype(np.int64)
    return ((2 * sums + area) // (2 * area)).astype(np.uint8)


def _overlaps(side: int, image_size: int) -> np.ndarray:
    """How much of old pixel w new pixel p covers, float64 [image_size, side], in units in which a new pixel is `side` long and an
    old one `image_size`: whole numbers."""
    new, old = np.arange(image_size)[:, None] * side, np.arange(side)[None] * image_size
    return np.clip(np.minimum(new + side, old + image_size) - np.maximum(new, old), 0, None).astype(np.float64)
