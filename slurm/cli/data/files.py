"""Commands of `iddpm data` for sources of encoded images: JPEG, PNG and others."""

from pathlib import Path
from typing import Any, Literal

import click

from slurm.cli.data.common import AVERAGED, CLASS_NAMES, ON_ERROR, OUTPUT, SOURCE, form_of, formed, import_and_print
from slurm.cli.paths import PATH


@click.command()
@click.argument("folder", type=PATH)
@OUTPUT
@click.option("--labels", type=click.Choice(["subfolder", "prefix", "none"]), default="none", show_default=True,
              help="Where the class of an image is written: its first sub-folder, or its file name up to the first '_'.")
@formed
def folder(folder: Path, output: Path, labels: Literal["subfolder", "prefix", "none"], **form: Any) -> None:
    """All images in and below a folder.

    Of every type that Pillow reads: jpg, png, tiff, webp, gif, bmp ...
    """
    from jobs.data.importers.folder import import_folder
    import_and_print(output, lambda writer: import_folder(folder, writer, form_of(**form), labels))


@click.command(name="zip")
@SOURCE
@OUTPUT
@CLASS_NAMES
@AVERAGED
@ON_ERROR
def zip_(source: Path, output: Path, class_names: Path | None, image_size: int | None,
         on_error: Literal["refuse", "skip"]) -> None:
    """A zip of images with dataset.json (EDM, StyleGAN).

    The images have one size; dataset.json has a class id for each, or null.
    """
    from jobs.data.importers.dataset_zip import import_zip
    import_and_print(output, lambda writer: import_zip(source, writer, on_error, class_names, image_size))
