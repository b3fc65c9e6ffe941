"""`iddpm data`: the commands that make data sets."""

from pathlib import Path

import click

OUTPUT = click.argument("output", type=click.Path(path_type=Path))


@click.group()
def data() -> None:
    """Make data sets: each command writes one HDF5 file."""


@data.command()
@OUTPUT
@click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True)
def digits(output: Path, split: str) -> None:
    """scikit-learn's handwritten digits, 8x8. (Specs can also say `path: digits` without a file.)"""
    from slurm.cli.make_data import digits
    digits(output, split)


@data.command()
@click.argument("archive", type=click.Path(path_type=Path))
@OUTPUT
@click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True)
def cifar10(archive: Path, output: Path, split: str) -> None:
    """CIFAR-10 from its python ARCHIVE, cifar-10-python.tar.gz, or the folder it unpacks to."""
    from slurm.cli.make_data import cifar10
    cifar10(archive, output, split)


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
@OUTPUT
@click.option("--image-size", type=click.IntRange(min=1), required=True,
              help="Side in pixels; images are shrunk, then cropped.")
@click.option("--labels", type=click.Choice(["subfolder", "prefix", "none"]), default="none", show_default=True,
              help="Where an image's class is written: its first sub-folder, or its file name up to the first '_'.")
@click.option("--channels", type=click.Choice(["1", "3"]), default="3", show_default=True)
@click.option("--on-error", type=click.Choice(["refuse", "skip"]), default="refuse", show_default=True,
              help="With images that are broken or too small: write nothing and name them, or leave them out.")
def folder(folder: Path, output: Path, image_size: int, labels: str, channels: str, on_error: str) -> None:
    """All images below FOLDER: jpg, png, gif, webp, bmp."""
    from slurm.cli.make_data import folder as make
    make(folder, output, image_size, labels, int(channels), on_error)


@data.command()
@click.argument("source", type=click.Path(path_type=Path))
@OUTPUT
def npz(source: Path, output: Path) -> None:
    """An .npz with arr_0 (or images) uint8 [N, H, W, C] and, if it has them, arr_1 (or labels)."""
    from slurm.cli.make_data import npz
    npz(source, output)
