"""Commands of `iddpm data` for large collections of encoded images, as others publish them."""

from pathlib import Path
from typing import Any, Literal

import click

from slurm.cli.data.common import OUTPUT, SOURCE, form_of, formed, import_and_print
from slurm.cli.paths import PATH

SOURCES = click.argument("sources", type=PATH, nargs=-1, required=True)
SPLIT = click.option("--split", type=click.Choice(["train", "val"]), default="train", show_default=True)


@click.command()
@SOURCE
@OUTPUT
@SPLIT
@click.option("--labels", type=PATH, help="Classes of the images in a flat folder or archive such as val: a line for each image, "
                                          "such as LOC_val_solution.csv or the ground truth of the development kit.")
@click.option("--synsets", type=PATH, help="Words for WordNet ids, such as LOC_synset_mapping.txt or map_clsloc.txt.")
@formed
def imagenet(source: Path, output: Path, split: Literal["train", "val"], labels: Path | None, synsets: Path | None,
             **form: Any) -> None:
    """ImageNet of ILSVRC, folders or archives.

    SOURCE holds train/n01440764/*.JPEG and val/*.JPEG, or is ILSVRC2012_img_train.tar or ILSVRC2012_img_val.tar. Classes are
    WordNet ids, in their order.
    """
    from jobs.data.importers.imagenet import import_imagenet
    import_and_print(output, lambda writer: import_imagenet(source, writer, form_of(**form), split, labels, synsets))


@click.command()
@SOURCE
@OUTPUT
@SPLIT
@formed
def lsun(source: Path, output: Path, split: Literal["train", "val"], **form: Any) -> None:
    """LSUN, databases or folders.

    SOURCE is a category, such as bedroom_train_lmdb or the folder that was exported from it, or a folder of several. Databases
    need lmdb: pip install 'iddpm[lmdb]'.
    """
    from jobs.data.importers.lsun import import_lsun
    import_and_print(output, lambda writer: import_lsun(source, writer, form_of(**form), split))


@click.command()
@SOURCES
@OUTPUT
@click.option("--image", metavar="NAME", help="The column of images; the only one by default.")
@click.option("--label", metavar="NAME", help="The column of classes, or none; by default the one that the schema shows.")
@formed
def parquet(sources: tuple[Path, ...], output: Path, image: str | None, label: str | None, **form: Any) -> None:
    """Parquet files of images, as Hugging Face has them.

    SOURCES are files, a folder, or 'data/train-*.parquet' in quotes, with a column of encoded images and one of classes.
    Needs pyarrow: pip install 'iddpm[parquet]'.
    """
    from jobs.data.importers.parquet import import_parquet
    import_and_print(output, lambda writer: import_parquet(sources, writer, form_of(**form), image, label))


@click.command()
@SOURCES
@OUTPUT
@click.option("--labels", type=click.Choice(["auto", "cls", "json", "none"]), default="auto", show_default=True,
              help="Where the class of an image is; auto: where the first image has it.")
@click.option("--json-key", default="label", show_default=True, help="The key of the class in .json.")
@formed
def webdataset(sources: tuple[Path, ...], output: Path, labels: Literal["auto", "cls", "json", "none"], json_key: str,
               **form: Any) -> None:
    """Webdataset shards (.tar, .tar.gz).

    SOURCES are files, a folder, or 'train-{0000..0146}.tar' in quotes, with images beside files .cls or .json.
    """
    from jobs.data.importers.webdataset import import_webdataset
    import_and_print(output, lambda writer: import_webdataset(sources, writer, form_of(**form), labels, json_key))
