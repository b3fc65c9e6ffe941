"""Image files: which a folder holds, and one of them as the square array that a network sees."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jobs.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")
# Named to PIL, so that no other decoder (EPS starts a program) is let near a file that merely ends in .png.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")


def list_images(folder: Path) -> list[str]:
    """Paths of the images in and below `folder`, relative to it, sorted; by suffix, hidden files and folders left out.

    Links to folders are followed. Raises UserError where there is no image, or a folder cannot be read.
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

    Of an animation the first frame. PIL may warn about odd metadata; what spoils pixels becomes a reason.
    """
    try:
        if not path.stat().st_size:
            return "zero bytes"
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                return f"{image.width}x{image.height} pixels: suspected decompression bomb"
            if min(image.size) < image_size:
                return f"{image.width}x{image.height}, smaller than image_size {image_size}; it would be enlarged"
            # Colours before sizes: the palette indices of a GIF must not be averaged.
            image = _to_rgb(ImageOps.exif_transpose(image))
        pixels = _resize_and_crop(image if channels == 3 else image.convert("L"), image_size)
        return pixels.reshape(image_size, image_size, channels)
    except UnidentifiedImageError:
        return "not a JPEG, PNG, GIF, WebP or BMP image"
    except Exception as error:  # decoders meet damaged bytes with whatever exception comes about
        return f"not decodable ({str(error) or type(error).__name__})"


def _to_rgb(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB, alpha over white."""
    if image.mode.startswith("I"):  # 16-bit grey, which convert() may clip at 255; keep the high byte, as for colour
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _resize_and_crop(image: Image.Image, image_size: int) -> np.ndarray:
    """uint8 [image_size, image_size] or [..., 3]: the middle square, made as for the published models.

    Source: improved-diffusion, image_datasets.py: halved by averaging while possible, then bicubic to the short side,
    then cut. In that order and with that rounding, so that results compare with published ones.
    """
    while min(image.size) >= 2 * image_size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = image_size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - image_size) // 2, (image.height - image_size) // 2
    return np.asarray(image.crop((left, top, left + image_size, top + image_size)))
