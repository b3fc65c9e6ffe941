"""Grids and strips of images."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jobs.storage.files import atomic_path

SHOWN_SIZE = 64  # small images are enlarged to about this many pixels: 8x8 ones would be specks


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] to 0 .. 255 by rounding, so that x = -1 + 2k/255 gives back k. Any shape."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_x(images: Tensor) -> Tensor:
    """0 .. 255 to [-1, 1], float32. Any shape."""
    return images.float() / 127.5 - 1


def grid(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """uint8 [N, H, W, C] tiled row by row on white: uint8 [rows, pixels, C], small images enlarged without smoothing."""
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
    """uint8 [H, W, C]; one channel is grey, three are RGB; of any other number the first is shown."""
    pixels = image if image.shape[2] == 3 else image[:, :, 0]
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary)


def as_images(x: Tensor) -> np.ndarray:
    """x [N, C, H, W] in [-1, 1] as uint8 [N, H, W, C]."""
    return to_uint8(x).permute(0, 2, 3, 1).cpu().numpy()
