"""Commands of `iddpm data` for sources of arrays, whose images have one size."""

from pathlib import Path
from typing import Literal

import click

from slurm.cli.data.common import AVERAGED, OUTPUT, SOURCE, SPLIT, import_and_print
from slurm.cli.paths import PATH


@click.command()
@OUTPUT
@SPLIT
def digits(output: Path, split: Literal["train", "test"]) -> None:
    """The handwritten digits of scikit-learn, 8x8. (A spec can also say `path: digits`; no file is needed then.)"""
    from jobs.data.importers.digits import import_digits
    import_and_print(output, lambda writer: import_digits({"train": "digits", "test": "digits-test"}[split], writer))


@click.command()
@click.argument("archive", type=PATH)
@OUTPUT
@SPLIT
@AVERAGED
def cifar10(archive: Path, output: Path, split: Literal["train", "test"], image_size: int | None) -> None:
    """CIFAR-10 from ARCHIVE: the python version, cifar-10-python.tar.gz, or the folder that was unpacked from it."""
    from jobs.data.importers.cifar import import_cifar10
    import_and_print(output, lambda writer: import_cifar10(archive, writer, split, image_size))


@click.command()
@click.argument("archive", type=PATH)
@OUTPUT
@SPLIT
@click.option("--labels", type=click.Choice(["fine", "coarse"]), default="fine", show_default=True,
              help="The 100 classes, or the 20 groups of them.")
@AVERAGED
def cifar100(archive: Path, output: Path, split: Literal["train", "test"], labels: Literal["fine", "coarse"],
             image_size: int | None) -> None:
    """CIFAR-100 from ARCHIVE: the python version, cifar-100-python.tar.gz, or the folder that was unpacked from it."""
    from jobs.data.importers.cifar import import_cifar100
    import_and_print(output, lambda writer: import_cifar100(archive, writer, split, labels, image_size))


@click.command()
@SOURCE
@OUTPUT
@AVERAGED
def npz(source: Path, output: Path, image_size: int | None) -> None:
    """An .npz file with arr_0 (or images), uint8 [N, H, W, C], and optionally arr_1 (or labels)."""
    from jobs.data.importers.npz import import_npz
    import_and_print(output, lambda writer: import_npz(source, writer, image_size))
