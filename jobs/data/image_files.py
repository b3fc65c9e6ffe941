"""List the image files of a folder, and decode one into the square array that a network sees."""

import io
import os
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jobs.errors import UserError
from jobs.quantities import plural
from jobs.storage.names import reason
from jobs.terminal import printable

# Pillow opens these and does not draw them, or starts a program (EPS); it writes PDF and PALM, and does not read them.
_NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF", "PDF", "PALM")
_NAMED = 8  # kinds of other files that are named
_GREY = ("1", "L", "LA", "La", "F")  # and those that begin with I
_MODES = (*_GREY, "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
_ORIENTATION = 0x0112  # of EXIF; 1 is upright

Done = Literal["grey", "colour", "palette", "cmyk", "alpha", "deep", "frame", "turned", "resized", "cropped"]
DONE: dict[Done, str] = {"grey": "grey made RGB", "colour": "colours made grey", "palette": "palettes made RGB",
                         "cmyk": "CMYK made RGB", "alpha": "transparent pixels laid over white", "deep": "16 bits made 8",
                         "frame": "first of several frames taken", "turned": "turned as EXIF says", "resized": "resized",
                         "cropped": "cropped to the middle square"}
"""What may be done to a picture, in words for a summary."""


def in_words(done: Counter[Done]) -> str:
    """How often each of DONE was done."""
    return ", ".join(f"{DONE[key]}: {done[key]:,}" for key in DONE if done[key])


@cache
def _kinds() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Pillow's decoders that may be used, and the suffixes of their files."""
    Image.init()
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind not in _NO_PICTURES}
    return tuple(sorted(set(Image.OPEN) - set(_NO_PICTURES))), tuple(sorted(suffixes))


def is_image_name(name: str) -> bool:
    """Whether the suffix is that of a type which Pillow draws."""
    return name.lower().endswith(_kinds()[1])


@dataclass(frozen=True)
class Listing:
    """`images`: sorted paths, relative to the folder. `others`: how many other files there are, by suffix or "hidden"."""

    images: list[str]
    others: Counter[str]

    def left_out(self) -> str:
        """The other files in words: 3 files that are no pictures: 2 .txt, 1 .db; "" if there are none."""
        if not self.others:
            return ""
        first = sorted(self.others.items(), key=lambda item: (-item[1], item[0]))[:_NAMED]
        named = [f"{count:,} {printable(suffix)}" for suffix, count in first]
        rest = self.others.total() - sum(count for _, count in first)
        verb = "are no pictures" if self.others.total() > 1 else "is no picture"
        return f"{plural(self.others.total(), 'file')} that {verb}: {', '.join(named)}" + (f", {rest:,} others" if rest else "")


def list_images(folder: Path) -> Listing:
    """The images in and below `folder`, and the other files. Hidden files and folders are not looked at.

    The suffix decides which files are images: all types that Pillow draws. Links to folders are followed. Raises UserError if
    there is no image, if a folder cannot be read, or if a link leads to a folder a second time.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")

    def refuse(error: OSError) -> None:
        raise UserError(f"{printable(error.filename)}: cannot be listed ({error.strerror})") from error

    found: list[str] = []
    others, seen = Counter[str](), set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        if (real := os.path.realpath(root)) in seen:
            raise UserError(f"{printable(root)}: leads to a folder that is read already; remove the link")
        seen.add(real)
        others["hidden"] += sum(name.startswith(".") for name in folders)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.startswith("."):
                others["hidden"] += 1
            elif is_image_name(name):
                found.append(os.path.relpath(os.path.join(root, name), folder))
            else:
                others[os.path.splitext(name)[1].lower() or "without a suffix"] += 1
    listing = Listing(sorted(found), +others)
    if not found:
        raise UserError(f"{folder}: no pictures in it or below; {listing.left_out() or 'no other files'}")
    return listing


@dataclass(frozen=True)
class Header:
    """What the first bytes of a picture say."""

    width: int
    height: int
    is_grey: bool
    is_deep: bool
    """Grey of 16 bits; the values may need fewer, see `needed_bits`."""


def read_header(picture: Path | bytes) -> Header | str:
    """The header of the picture, a file or its bytes, or the reason why it cannot be used."""
    return _explained(picture, lambda image: Header(image.width, image.height, _is_grey(image), image.mode.startswith("I")))


@dataclass(frozen=True, eq=False)
class Decoded:
    """`pixels` uint8 [image_size, image_size, channels]; `done` to the picture; its `size` before that, as EXIF turns it;
    `bits` that grey of 16 bits needs, else None."""

    pixels: np.ndarray
    done: frozenset[Done]
    size: tuple[int, int]
    """Width and height."""
    bits: int | None = None


def decode_image(picture: Path | bytes, image_size: int, channels: int, bits: int = 16) -> Decoded | str:
    """The picture, a file or its bytes, as a square of `image_size` in 1 (grey) or 3 (RGB) channels, or the reason why it
    cannot be used.

    Grey of 16 bits is made 8 as if its values had `bits` bits: cameras put 12 bits into 16. An animation gives its first frame.
    PIL warns about odd metadata; damaged pixels are a reason.
    """
    def decode(image: Image.Image) -> Decoded | str:
        if min(image.size) < image_size:
            return f"{image.width}x{image.height}, smaller than image_size {image_size}; it would be enlarged"
        if problem := _unfit(image):
            return problem
        done: set[Done] = {"frame"} if getattr(image, "is_animated", False) else set()
        if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
            done.add("turned")
        needed = needed_bits(image) if image.mode.startswith("I") else None
        # Convert to colours before resizing: averaging the palette indices of a GIF makes no sense.
        turned = ImageOps.exif_transpose(image)
        rgb, converted = _to_rgb(turned, bits)
        done |= converted | ({"grey"} if channels == 3 and _is_grey(image) else set())
        if channels == 1 and not _is_grey(image):
            done = done - {"palette", "cmyk"} | {"colour"}
        if min(image.size) != image_size:
            done.add("resized")
        if image.width != image.height:
            done.add("cropped")
        pixels = _resize_and_crop(rgb if channels == 3 else rgb.convert("L"), image_size)
        return Decoded(pixels.reshape(image_size, image_size, channels), frozenset(done), turned.size, needed)
    return _explained(picture, decode)


def _explained(picture: Path | bytes, use):
    """`use(image)`, or the reason why the file is no picture that can be used."""
    try:
        if not (len(picture) if isinstance(picture, bytes) else picture.stat().st_size):
            return "zero bytes"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is looked at below; the rest is odd metadata
            image = Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture, formats=_kinds()[0])
        with image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or 0):
                return f"{image.width}x{image.height} pixels: suspected decompression bomb"
            return use(image)
    except UnidentifiedImageError:
        return "not an image of a type that Pillow reads"
    except Exception as error:  # on damaged bytes decoders raise any exception
        return f"not decodable ({reason(error)})"


def _is_grey(image: Image.Image) -> bool:
    return image.mode in _GREY or image.mode.startswith("I")


def needed_bits(image: Image.Image) -> int:
    """The bits that the largest value of a picture of 16 bits needs: 8, 10, 12, 14 or 16. Cameras have such depths."""
    largest = int(np.asarray(image).max())
    return next(bits for bits in (8, 10, 12, 14, 16) if largest < 1 << bits)


def read_needed_bits(path: Path) -> int:
    """`needed_bits` of a file; 8 if it cannot be decoded, which `decode_image` will say."""
    def use(image: Image.Image) -> int | str:
        return _unfit(image) or needed_bits(image)
    found = _explained(path, use)
    return found if isinstance(found, int) else 8


def _unfit(image: Image.Image) -> str | None:
    """The reason why the values of the picture cannot be made 8 bits without guessing, or None."""
    if image.mode == "F":
        return "floating-point pixels, whose range is not known; convert it to 8 or 16 bits first"
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            return f"values from {pixels.min()} to {pixels.max()}, more than 16 bits; convert it to 8 or 16 bits first"
    elif image.mode not in _MODES:
        return f"pixels of mode {image.mode}; convert it to RGB first"
    elif any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):  # PIL keeps the high bytes only
        highest = np.asarray(image)[..., :3].max()
        if highest < 64:
            return f"colours of 16 bits that need {8 + int(highest).bit_length()}, so it would come out nearly black; " \
                   "convert it to 8 bits first"
    return None


def _to_rgb(image: Image.Image, bits: int) -> tuple[Image.Image, set[Done]]:
    """Convert to 8-bit RGB; transparent pixels are laid over white. Also what was done."""
    done: set[Done] = set()
    if image.mode.startswith("I"):  # convert() may clip at 255, so shift instead
        image = Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
        done.add("deep")
    done |= {"palette"} if image.mode in ("P", "PA") else {"cmyk"} if image.mode == "CMYK" else set()
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            done.add("alpha")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB"), done


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
