"""`iddpm data show`: a summary of a data set, and a picture of its first images."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.errors import UserError
from slurm.cli.data.common import progress
from slurm.cli.paths import PATH, PATH_OR_NAME

if TYPE_CHECKING:
    from jobs.data.overview import ClassCount

_WIDTH, _HEAD = 110, 10  # characters of a line, and of the word before a value


@click.command()
@click.argument("file", type=PATH_OR_NAME)
@click.option("--out", type=PATH, help="The picture, a .png; FILE.png by default.")
@click.option("--each", type=click.IntRange(1, 50), default=10, show_default=True,
              help="Images of each class; without classes, rows of the picture and images in a row.")
def show(file: str, out: Path | None, each: int) -> None:
    """Print what is in a data set, and draw it.

    The picture has the first images of each class. FILE is a data set, `digits`, samples (.h5, .npz), or a folder of images of
    one size.
    """
    from jobs.data.overview import draw, overview
    from jobs.data.pictures import write_png
    from jobs.data.sources import open_images, remarks_of
    from jobs.quantities import size
    from jobs.storage.names import shortened
    out = _checked(out or Path(f"{os.path.abspath(file) if os.path.isdir(file) else file}.png"))
    data = open_images(file)
    count, height, width, channels = data.images.shape
    with progress() as report:
        found = overview(data, report)
    picture, drawn = draw(data, found.classes, each)
    write_png(out, picture)
    colours = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    print(f"{file}: {count:,} images, {width}x{height}, {colours}, {size(count * height * width * channels)} of pixels")
    _print_lines({"source": "" if data.source == file else shortened(data.source),
                  "skipped": "" if data.skipped is None else f"{data.skipped:,} when the file was made",
                  "classes": "none" if data.labels is None else f"{len(found.classes):,}, with their images"})
    _print_classes(found.classes)
    order = f" of 0 .. 255{' in red, green, blue' if channels == 3 else ''}"
    _print_lines({"mean": _numbers(found.mean) + order, "std": _numbers(found.std), "sha256": found.sha256,
                  "picture": f"{out}, {drawn}"})
    for remark in remarks_of(data):
        print(remark)


def _checked(out: Path) -> Path:
    """`out`. Raises UserError if no picture can be written there, before all images are read."""
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: must end in .png")
    if out.exists() and not (out.is_file() and _starts_as_png(out)):
        raise UserError(f"{out}: exists and is not a PNG file; choose another one with --out")
    return out


def _starts_as_png(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x89PNG"


def _print_lines(lines: dict[str, str]) -> None:
    for head, value in lines.items():
        if value:
            print(f"{head:<{_HEAD}}{value}")


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def _print_classes(classes: list["ClassCount"]) -> None:
    """Print the first classes, with their numbers of images, in columns that are read downwards."""
    from jobs.data.overview import MOST_CLASSES
    listed = classes[:MOST_CLASSES]
    digits = max((len(str(one.label)) for one in listed), default=0)
    names, counts = [f"{one.label:>{digits}} {one.shown}".rstrip() for one in listed], [f"{one.count:,}" for one in listed]
    wide, deep = max(map(len, names), default=0), max(map(len, counts), default=0)
    cells = [f"{name:<{wide}} {count:>{deep}}" for name, count in zip(names, counts, strict=True)]
    columns = max(1, (_WIDTH - _HEAD) // (wide + deep + 4))
    rows = -(-len(cells) // columns)
    for row in range(rows):
        print(" " * _HEAD + "   ".join(cells[row::rows]))
    if others := classes[MOST_CLASSES:]:
        least, most = min(one.count for one in others), max(one.count for one in others)
        print(f"{' ' * _HEAD}and {len(others):,} more classes, of {least:,} to {most:,} images")
