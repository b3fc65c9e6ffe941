"""Sheets of pictures with captions for a person, and films of sheets. Small pictures are enlarged, unsmoothed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE, FILM_SIDE = 112, 64  # pixels; smaller pictures are enlarged to about this size, on a sheet and in a film
GAP, CAPTION, TEXT = 10, 18, 13  # pixels: between pictures and around all; height of a line of captions, and of its letters
INK = 70  # grey
FRAME_MS, LAST_MS = 80, 2000  # how long a film shows a frame, and its last one


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture uint8 [H, W, C] of a sheet, with a caption below."""

    image: np.ndarray
    caption: str = ""


def sheet(rows: Sequence[Sequence[Tile]], side: int = SIDE) -> np.ndarray:
    """Lay out the rows on white: uint8 [pixels, pixels, 3], or [pixels, pixels, 1] of pictures that are not RGB.

    All pictures have equal sizes; smaller ones are enlarged to about `side` pixels. Captions that are wider than their picture
    are cut. Rows without captions leave no room.
    """
    height, width, channels = rows[0][0].image.shape
    channels = 3 if channels == 3 else 1
    scale = max(1, round(side / max(height, width)))
    high, wide = height * scale, width * scale
    heights = [high + (CAPTION if any(tile.caption for tile in row) else 0) for row in rows]
    canvas = np.full((sum(heights) + GAP * (len(rows) + 1), (wide + GAP) * max(map(len, rows)) + GAP, channels), 255, np.uint8)
    captions, top = [], GAP
    for row, row_height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            left = GAP + column * (wide + GAP)
            canvas[top:top + high, left:left + wide] = tile.image[:, :, :channels].repeat(scale, axis=0).repeat(scale, axis=1)
            captions.append((left, top + high + 2, tile.caption))
        top += row_height + GAP
    return _lettered(canvas, captions, wide)


def _lettered(canvas: np.ndarray, captions: Sequence[tuple[int, int, str]], wide: int) -> np.ndarray:
    image = as_pillow(canvas)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(TEXT)
    for left, top, caption in captions:
        text = caption
        while text and font.getlength(text) > wide:
            text = text[:-2].rstrip(".") + "." if len(text) > 2 else ""
        draw.text((left, top), text, fill=INK if image.mode == "L" else (INK,) * 3, font=font)
    return np.asarray(image).reshape(*canvas.shape[:2], -1)


def in_rows(tiles: Sequence[Tile], columns: int | None = None) -> list[list[Tile]]:
    """Break the tiles into rows of `columns`; None: all in one row up to six, else as nearly a square as possible."""
    columns = columns or (len(tiles) if len(tiles) <= 6 else math.ceil(math.sqrt(len(tiles))))
    return [list(tiles[start:start + columns]) for start in range(0, len(tiles), columns)]


def as_pillow(image: np.ndarray) -> Image.Image:
    """`image` uint8 [H, W, C]: RGB if C is 3, else the first channel in grey."""
    return Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])


def write_film(path: Path, sheets: Sequence[np.ndarray]) -> None:
    """Write an animated GIF of the sheets uint8 [pixels, pixels, C], which repeats for ever and rests on the last one."""
    first, *others = map(as_pillow, sheets)
    first.save(path, save_all=True, append_images=others, loop=0, duration=[FRAME_MS] * len(others) + [LAST_MS])
