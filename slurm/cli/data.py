"""`iddpm data`: the commands that make data sets, with progress and a summary.

The importers are imported by the command that needs them: `iddpm --help` must not wait for numpy and HDF5.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from slurm.cli.paths import PATH

if TYPE_CHECKING:
    from jobs.data.importers.writer import Summary

LISTED = 20  # skipped images that are named

OUTPUT = click.argument("output", type=PATH)
SPLIT = click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True)


@click.group()
def data() -> None:
    """Make data sets. Each command writes one HDF5 file."""


@data.command()
@OUTPUT
@SPLIT
def digits(output: Path, split: Literal["train", "test"]) -> None:
    """The handwritten digits of scikit-learn, 8x8. (A spec can also say `path: digits`; no file is needed then.)"""
    from jobs.data.importers.digits import import_digits
    from jobs.data.importers.writer import Writer
    _print_summary(import_digits({"train": "digits", "test": "digits-test"}[split], Writer(output)), output)


@data.command()
@click.argument("archive", type=PATH)
@OUTPUT
@SPLIT
def cifar10(archive: Path, output: Path, split: Literal["train", "test"]) -> None:
    """CIFAR-10 from ARCHIVE: the python version, cifar-10-python.tar.gz, or the folder that was unpacked from it."""
    from jobs.data.importers.cifar10 import import_cifar10
    from jobs.data.importers.writer import Writer
    _print_summary(import_cifar10(archive, Writer(output), split), output)


@data.command()
@click.argument("folder", type=PATH)
@OUTPUT
@click.option("--image-size", type=click.IntRange(min=1), required=True,
              help="Side in pixels. Images are resized, then cropped to a square.")
@click.option("--labels", type=click.Choice(["subfolder", "prefix", "none"]), default="none", show_default=True,
              help="Where the class of an image is written: its first sub-folder, or its file name up to the first '_'.")
@click.option("--channels", type=click.Choice(["1", "3"]), default="3", show_default=True)
@click.option("--on-error", type=click.Choice(["refuse", "skip"]), default="refuse", show_default=True,
              help="If images are broken or too small: write nothing and name these images, or skip these images.")
def folder(folder: Path, output: Path, image_size: int, labels: Literal["subfolder", "prefix", "none"],
           channels: Literal["1", "3"], on_error: Literal["refuse", "skip"]) -> None:
    """All images in and below FOLDER, of every type that Pillow reads: jpg, png, tiff, webp, gif, bmp ..."""
    from jobs.data.importers.folder import import_folder
    from jobs.data.importers.writer import Writer
    from jobs.run.progress import Bar
    began = time.monotonic()
    bar: Bar | None = None  # the total is not known before the first report

    def report(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or Bar("images", total, "images")
        bar.show(done, done / (time.monotonic() - began))

    try:
        summary = import_folder(folder, Writer(output), image_size, labels, 1 if channels == "1" else 3, on_error, report)
    finally:
        if bar:
            bar.close()
    _print_summary(summary, output)


@data.command()
@click.argument("source", type=PATH)
@OUTPUT
def npz(source: Path, output: Path) -> None:
    """An .npz file with arr_0 (or images), uint8 [N, H, W, C], and optionally arr_1 (or labels)."""
    from jobs.data.importers.npz import import_npz
    from jobs.data.importers.writer import Writer
    _print_summary(import_npz(source, Writer(output)), output)


def _print_summary(summary: "Summary", output: Path) -> None:
    classes = f", {len(summary.classes)} classes" if summary.classes else ""
    print(f"{output}: {summary.count} images{classes}")
    for remark in summary.remarks:
        print(remark)
    for path, reason in summary.skipped[:LISTED]:
        print(f"skipped {path}: {reason}")
    if len(summary.skipped) > LISTED:
        print(f"... and {len(summary.skipped) - LISTED} more")
    if summary.skipped:
        print(f"{len(summary.skipped)} images skipped in all")
