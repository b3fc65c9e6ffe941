"""Commands of `iddpm data` for sources of arrays, whose images have one size."""

from pathlib import Path
from typing import Literal

import click

from slurm.cli.data.common import AVERAGED, CLASS_NAMES, OUTPUT, SOURCE, SPLIT, import_and_print
from slurm.cli.paths import PATH


@click.command()
@OUTPUT
@SPLIT
def digits(output: Path, split: Literal["train", "test"]) -> None:
    """Handwritten digits of scikit-learn, 8x8. (A spec can also say `path: digits`; no file is needed then.)"""
    from jobs.data.importers.digits import import_digits
    import_and_print(output, lambda writer: import_digits({"train": "digits", "test": "digits-test"}[split], writer))


@click.command()
@click.argument("archive", type=PATH)
@OUTPUT
@SPLIT
@AVERAGED
def cifar10(archive: Path, output: Path, split: Literal["train", "test"], image_size: int | None) -> None:
    """CIFAR-10, the python version.

    ARCHIVE is cifar-10-python.tar.gz, or the folder that was unpacked from it.
    """
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
    """CIFAR-100, the python version.

    ARCHIVE is cifar-100-python.tar.gz, or the folder that was unpacked from it.
    """
    from jobs.data.importers.cifar import import_cifar100
    import_and_print(output, lambda writer: import_cifar100(archive, writer, split, labels, image_size))


@click.command()
@SOURCE
@OUTPUT
@CLASS_NAMES
@AVERAGED
def npz(source: Path, output: Path, class_names: Path | None, image_size: int | None) -> None:
    """An .npz file of images, as the reference code writes.

    It has arr_0 (or images), uint8 [N, H, W, C], and optionally arr_1 (or labels).
    """
    from jobs.data.importers.npz import import_npz
    import_and_print(output, lambda writer: import_npz(source, writer, image_size, class_names))


@click.command(name="imagenet-npz")
@click.argument("sources", type=PATH, nargs=-1, required=True)
@OUTPUT
@click.option("--split", type=click.Choice(["train", "val"]), default="train", show_default=True,
              help="Of folders: which files to take, train*.npz or val*.npz.")
@CLASS_NAMES
@AVERAGED
def imagenet_npz(sources: tuple[Path, ...], output: Path, split: Literal["train", "val"], class_names: Path | None,
                 image_size: int | None) -> None:
    """Downsampled ImageNet in .npz files, 8x8 to 64x64.

    SOURCES are the files train_data_batch_1.npz .. train_data_batch_10.npz or val_data.npz, or folders of them. They have data,
    uint8 [N, 3 * S * S], and labels from 1.
    """
    from jobs.data.importers.imagenet_npz import import_imagenet_npz
    import_and_print(output, lambda writer: import_imagenet_npz(sources, writer, split, class_names, image_size))


@click.command()
@SOURCE
@OUTPUT
@SPLIT
@click.option("--labels", type=PATH, metavar="FILE", help="The labels.  [default: beside the images, by the usual name]")
@CLASS_NAMES
@AVERAGED
def mnist(source: Path, output: Path, split: Literal["train", "test"], labels: Path | None, class_names: Path | None,
          image_size: int | None) -> None:
    """MNIST, and what has its format: Fashion-MNIST, EMNIST.

    SOURCE is a folder of idx files, .gz or not, or the file of the images.
    """
    from jobs.data.importers.mnist import import_mnist
    import_and_print(output, lambda writer: import_mnist(source, writer, split, labels, class_names, image_size))
