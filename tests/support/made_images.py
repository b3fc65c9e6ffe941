"""Images of noise, and files of images."""

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels, **options):
    """Write an image file; `pixels` is an array or a PIL image. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path
