"""Pictures and masks that a user gives to `iddpm make`: any type that Pillow reads, made to fit the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.data.image_files import DONE, Decoded, decode_image, read_header, read_needed_bits
from jobs.errors import UserError
from jobs.spec.sections import Data
from jobs.storage.files import check_file, sha256_of_file

WHITE = 128  # a mask's pixel that is at least this light is white


@dataclass(frozen=True, eq=False)
class Given:
    """A picture as the network takes it: `pixels` uint8 [S, S, C]."""

    path: Path
    pixels: np.ndarray
    size: tuple[int, int]
    """Width and height in the file."""
    sha256: str
    """Of the file."""
    remark: str
    """What was done to the picture, in one sentence; "" if nothing."""


def read_picture(path: Path, data: Data) -> Given:
    """Read the picture as a run with these `data` takes it. Raises UserError that names the file and what is wrong with it."""
    if data.channels not in (1, 3):
        raise UserError(f"{path}: this run's images have {data.channels} channels; pictures can be given to runs with 1 or 3")
    decoded = _decoded(path, data.image_size, data.channels)
    done = ", ".join(DONE[key] for key in DONE if key in decoded.done)
    width, height = decoded.size
    remark = f"{path}: {width}x{height} pixels; {done}: {data.image_size}x{data.image_size} pixels are used" if done else ""
    return Given(path, decoded.pixels, decoded.size, sha256_of_file(path), remark)


def read_mask(path: Path, picture: Given) -> np.ndarray:
    """Read where `picture` is to be made anew: bool [S, S], true where the mask is white.

    Raises UserError that names the file if it is no picture of the size of `picture`, all black, or all white.
    """
    side = picture.pixels.shape[0]
    decoded = _decoded(path, side, 1, "mask")
    if decoded.size != picture.size:
        (width, height), (wide, high) = decoded.size, picture.size
        raise UserError(f"{path}: the mask is {width}x{height} pixels and {picture.path} is {wide}x{high}; they must be equal")
    anew = decoded.pixels[:, :, 0] >= WHITE
    if not anew.any():
        raise UserError(f"{path}: the mask is black everywhere, and only white pixels are made anew")
    if anew.all():
        raise UserError(f"{path}: the mask is white everywhere, and only black pixels of {picture.path} stay")
    return anew


def _decoded(path: Path, image_size: int, channels: int, what: str = "picture") -> Decoded:
    try:
        check_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such {what}") from error
    header = read_header(path)
    bits = read_needed_bits(path) if not isinstance(header, str) and header.is_deep else 16
    found = header if isinstance(header, str) else decode_image(path, image_size, channels, bits)
    if isinstance(found, str):
        raise UserError(f"{path}: {found}")
    assert isinstance(found, Decoded)
    return found
