"""List the image files of a folder, and decode one into the square array that a network sees."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jobs.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")
# PIL may use only these decoders. Others are unsafe on a file that merely ends in .png: EPS starts a program.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")


def list_images(folder: Path) -> list[str]:
    """Sorted paths of the images in and below `folder`, relative to `folder`. Hidden files and folders do not count.

    The suffix decides which files are images. Links to folders are followed. Raises UserError if there is no image, if a
    folder cannot be read, or if a link leads to a folder a second time.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror})") from error

    found: list[str] = []
    others, seen = 0, set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        if (real := os.path.realpath(root)) in seen:
            raise UserError(f"{root}: leads to a folder that is read already; remove the link")
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = [name for name in files if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
        found += [os.path.relpath(os.path.join(root, name), folder) for name in images]
        others += len(files) - len(images)
    if not found:
        raise UserError(f"{folder}: no images ({', '.join(SUFFIXES)}) in it or below; {others} other files")
    return sorted(found)


def decode_image(path: Path, image_size: int, channels: int) -> np.ndarray | str:
    """The image as uint8 [image_size, image_size, channels] (1: grey, 3: RGB), or the reason why it cannot be used.

    An animation gives its first frame. PIL warns about odd metadata; damaged pixels are a reason.
    """
    try:
        if not path.stat().st_size:
            return "zero bytes"
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                return f"{image.width}x{image.height} pixels: suspected decompression bomb"
            if min(image.size) < image_size:
                return f"{image.width}x{image.height}, smaller than image_size {image_size}; it would be enlarged"
            # Convert to colours before resizing: averaging the palette indices of a GIF makes no sense.
            image = _to_rgb(ImageOps.exif_transpose(image))
        pixels = _resize_and_crop(image if channels == 3 else image.convert("L"), image_size)
        return pixels.reshape(image_size, image_size, channels)
    except UnidentifiedImageError:
        return "not a JPEG, PNG, GIF, WebP or BMP image"
    except Exception as error:  # on damaged bytes decoders raise any exception
        return f"not decodable ({str(error) or type(error).__name__})"


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB; transparent pixels are laid over white."""
    if image.mode.startswith("I"):  # 16-bit grey: convert() may clip at 255, so keep the high byte
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _resize_and_crop(image: Image.Image, image_size: int) -> np.ndarray:
    """The middle square, uint8 [image_size, image_size] (grey) or [image_size, image_size, 3].

    Source: improved-diffusion, image_datasets.py: halve by averaging while possible, then resize the short side (bicubic),
    then crop. Order and rounding are those of the published models, so that results can be compared.
    """
    while min(image.size) >= 2 * image_size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = image_size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - image_size) // 2, (image.height - image_size) // 2
    return np.asarray(image.crop((left, top, left + image_size, top + image_size)))
