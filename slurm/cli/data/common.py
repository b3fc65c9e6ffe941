"""What the commands of `iddpm data` share: arguments, options, progress and the summary."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from jobs.quantities import plural
from slurm.cli.paths import PATH

if TYPE_CHECKING:
    from jobs.data.importers.encoded import Form
    from jobs.data.importers.writer import Summary, Writer

LISTED = 20  # skipped images that are named

SOURCE = click.argument("source", type=PATH)
OUTPUT = click.argument("output", type=PATH)
SPLIT = click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True)
_RESIZED = click.option("--image-size", type=click.IntRange(min=1), required=True,
                        help="Side in pixels. Images are resized, then cropped to a square.")
AVERAGED = click.option("--image-size", type=click.IntRange(min=1), metavar="SIDE",
                        help="Average the images down to this side in pixels.  [default: the side they have]")
CLASS_NAMES = click.option("--class-names", type=PATH, metavar="FILE",
                           help="Names of the classes: one a line, or with numbers as in map_clsloc.txt and EMNIST's mapping.")
_CHANNELS = click.option("--channels", type=click.Choice(["1", "3"]), default="3", show_default=True)
ON_ERROR = click.option("--on-error", type=click.Choice(["refuse", "skip"]), default="refuse", show_default=True,
                        help="If images are broken or too small: write nothing and name these images, or skip these images.")


def formed(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say what images become."""
    return _RESIZED(_CHANNELS(ON_ERROR(command)))


def form_of(image_size: int, channels: str, on_error: Literal["refuse", "skip"]) -> "Form":
    """What the options of `formed` say."""
    from jobs.data.importers.encoded import Form
    return Form(image_size, 1 if channels == "1" else 3, on_error)


def import_and_print(output: Path, write: Callable[["Writer"], "Summary"]) -> None:
    """Call `write(writer)` with a Writer that shows progress, and print its summary."""
    from jobs.data.importers.writer import Writer
    with progress() as report:
        summary = write(Writer(output, report))
    _print_summary(summary, output)


@contextmanager
def progress() -> Iterator[Callable[[int, int], None]]:
    """report(done, total), which shows a bar on a terminal, or a line now and then. A total of 0 is not known."""
    from jobs.run.progress import Bar
    began, bars = time.monotonic(), list[Bar]()  # the total is not known before the first report

    def report(done: int, total: int) -> None:
        if not bars:
            bars.append(Bar("images", total, "images"))
        bars[0].show(done, done / max(time.monotonic() - began, 1e-9), note="" if total else f"{done:,} images")

    try:
        yield report
    finally:
        for bar in bars:
            bar.close()


def _print_summary(summary: "Summary", output: Path) -> None:
    classes = f", {len(summary.classes)} classes" if summary.classes else \
        f", labels 0 .. {summary.largest} without names" if summary.largest >= 0 else ""
    print(f"{output}: {summary.count} images{classes}")
    for remark in summary.remarks:
        print(remark)
    for path, reason in summary.skipped[:LISTED]:
        print(f"skipped {path}: {reason}")
    if len(summary.skipped) > LISTED:
        print(f"... and {len(summary.skipped) - LISTED} more")
    if summary.skipped:
        print(f"{plural(len(summary.skipped), 'image')} skipped in all")
