"""Commands of `iddpm data` for sources of arrays, whose images have one size."""

from pathlib import Path
from typing import Literal

import click

from slurm.cli.data.common import OUTPUT, SOURCE, SPLIT, import_and_print
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
def cifar10(archive: Path, output: Path, split: Literal["train", "test"]) -> None:
    """CIFAR-10 from ARCHIVE: the python version, cifar-10-python.tar.gz, or the folder that was unpacked from it."""
    from jobs.data.importers.cifar10 import import_cifar10
    import_and_print(output, lambda writer: import_cifar10(archive, writer, split))


@click.command()
@SOURCE
@OUTPUT
def npz(source: Path, output: Path) -> None:
    """An .npz file with arr_0 (or images), uint8 [N, H, W, C], and optionally arr_1 (or labels)."""
    from jobs.data.importers.npz import import_npz
    import_and_print(output, lambda writer: import_npz(source, writer))
