"""Images as tensors in [-1, 1], as uint8 arrays, and as grids in PNG files.

No torch is loaded here: the report takes pictures apart again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from jobs.errors import StageFailed
from jobs.storage.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

SHOWN_SIZE = 64  # pixels; smaller images are enlarged to about this size, or nobody could see them
GAP = 2  # white pixels between the images of a grid, and around them


def to_uint8(x: Tensor) -> Tensor:
    """Map [-1, 1] to 0 .. 255, rounded, so that x = -1 + 2k/255 gives k. Values outside are clamped. Any shape."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().byte()


def to_x(images: Tensor) -> Tensor:
    """Map 0 .. 255 to [-1, 1], float32. Any shape."""
    return images.float() / 127.5 - 1


def as_images(x: Tensor) -> np.ndarray:
    """x [N, C, H, W] in [-1, 1] as uint8 [N, H, W, C], on the CPU. Raises StageFailed for NaN, which would be black."""
    if not x.isfinite().all():
        raise StageFailed("pictures of values that are not finite", kind="not finite")
    return to_uint8(x).permute(0, 2, 3, 1).cpu().numpy()


def mirrored(images: Tensor, flip: Tensor | None) -> Tensor:
    """`images` [n, C, H, W], mirrored left-right where `flip` (bool [n]) is true; None mirrors none."""
    return images if flip is None else images.flip(3).where(flip[:, None, None, None], images)


def cropped(x: Tensor, windows: Tensor) -> Tensor:
    """Windows of the images x [n, C, S, S] in [-1, 1], enlarged to S x S by cubic interpolation; values stay in [-1, 1].

    `windows` [n, 3]: (side, left, top) of each image's window, in shares of S.
    """
    import torch  # a login node reads this file, too
    from torch.nn import functional as F

    side, left, top = windows.to(x.dtype).T[:, :, None]
    # grid_sample counts from -1 to 1, from edge to edge. Not by affine_grid, whose matrix product rounds as the batch has it.
    middles = (2 * torch.arange(x.shape[-1], device=x.device, dtype=x.dtype) + 1) / x.shape[-1]
    across, down = (2 * first + side * middles - 1 for first in (left, top))  # [n, S]
    places = torch.stack([across[:, None, :].expand(x.shape[0], *x.shape[2:]), down[:, :, None].expand(x.shape[0], *x.shape[2:])],
                         dim=3)
    return F.grid_sample(x, places, mode="bicubic", padding_mode="border", align_corners=False).clamp(-1, 1)


def grid(images: np.ndarray, columns: int, gap: int = GAP) -> np.ndarray:
    """Tile `images`, uint8 [N, H, W, C], row by row on white: uint8 [rows, pixels, C]. Small images are enlarged, unsmoothed."""
    scale = _enlargement(images.shape[1])
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for index, image in enumerate(images):
        _place(canvas, index, columns, height, width, gap)[:] = image
    return canvas


def ungrid(picture: np.ndarray, size: int) -> np.ndarray:
    """The images of a picture that `grid` made of full rows of square images: uint8 [N, size, size, C], row by row.

    Raises ValueError for a picture that `grid` cannot have made of images of `size` pixels.
    """
    scale = _enlargement(size)
    rows, columns = ((pixels - GAP) // (size * scale + GAP) for pixels in picture.shape[:2])
    side = size * scale
    if picture.shape[:2] != (rows * (side + GAP) + GAP, columns * (side + GAP) + GAP) or not rows * columns:
        raise ValueError(f"a picture of {picture.shape[0]}x{picture.shape[1]} pixels is no grid of {size}x{size} images")
    return np.stack([_place(picture, index, columns, side, side, GAP)[::scale, ::scale] for index in range(rows * columns)])


def _enlargement(size: int) -> int:
    """The whole factor by which `grid` enlarges images of `size` pixels."""
    return max(1, SHOWN_SIZE // size)


def _place(canvas: np.ndarray, index: int, columns: int, height: int, width: int, gap: int) -> np.ndarray:
    """A view of the part of `canvas` where a grid has image number `index`."""
    top, left = gap + (index // columns) * (height + gap), gap + (index % columns) * (width + gap)
    return canvas[top:top + height, left:left + width]


def write_png(path: Path, image: np.ndarray) -> None:
    """Write `image` uint8 [H, W, C]: RGB if C is 3, else the first channel in grey. Raises UserError if the disk refuses."""
    pixels = image if image.shape[2] == 3 else image[:, :, 0]
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary)
