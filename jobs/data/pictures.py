"""Images as tensors in [-1, 1], as uint8 arrays, and as grids in PNG files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jobs.storage.files import atomic_path

SHOWN_SIZE = 64  # pixels; smaller images are enlarged to about this size, or nobody could see them


def to_uint8(x: Tensor) -> Tensor:
    """Map [-1, 1] to 0 .. 255, rounded, so that x = -1 + 2k/255 gives k. Values outside are clamped. Any shape."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_x(images: Tensor) -> Tensor:
    """Map 0 .. 255 to [-1, 1], float32. Any shape."""
    return images.float() / 127.5 - 1


def as_images(x: Tensor) -> np.ndarray:
    """x [N, C, H, W] in [-1, 1] as uint8 [N, H, W, C], on the CPU."""
    return to_uint8(x).permute(0, 2, 3, 1).cpu().numpy()


def mirrored(images: Tensor, flip: Tensor | None) -> Tensor:
    """`images` [n, C, H, W], mirrored left-right where `flip` (bool [n]) is true; None mirrors none."""
    return images if flip is None else torch.where(flip[:, None, None, None], images.flip(3), images)


def grid(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Tile images uint8 [N, H, W, C] row by row on white: uint8 [height, width, C]. Small images are enlarged, not smoothed."""
    scale = max(1, SHOWN_SIZE // images.shape[1])
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = (gap + (index // columns) * (height + gap), gap + (index % columns) * (width + gap))
        canvas[top:top + height, left:left + width] = image
    return canvas


def write_png(path: Path, image: np.ndarray) -> None:
    """Write `image` uint8 [H, W, C]: RGB if C is 3, else the first channel in grey. Raises UserError if the disk refuses."""
    pixels = image if image.shape[2] == 3 else image[:, :, 0]
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary)
