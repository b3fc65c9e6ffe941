"""Make a data set from a folder of image files."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from jobs.data.image_files import list_images
from jobs.data.importers.encoded import Form, Record, import_records
from jobs.data.importers.writer import Summary, Writer

Labels = Literal["subfolder", "prefix", "none"]
_UNLABELLED = {"subfolder": "not in a sub-folder, so it has no label", "prefix": 'no class name before a "_" in its file name'}


def import_folder(source: Path, writer: Writer, form: Form, labels: Labels) -> Summary:
    """Write all images in and below the folder `source`, in the order of their paths, as `import_records` does.

    The class of an image is its first sub-folder ("subfolder") or its file name up to the first "_" ("prefix"); ids follow
    the alphabet, or the numbers if all names are numbers.
    """
    listing = list_images(source)
    remarks = [f"left out {left_out}"] if (left_out := listing.left_out()) else []
    described = f"folder {source}, {form.image_size}x{form.image_size}, labels: {labels}"
    return import_records(_records(source, listing.images, labels), writer, form, str(source), described,
                          labelled=labels != "none", total=len(listing.images), remarks=remarks)


def _records(folder: Path, paths: list[str], labels: Labels) -> Iterator[Record]:
    for path in paths:
        name = _class_name(path, labels)
        yield Record(path, folder / path, name or None, "" if name else _UNLABELLED.get(labels, ""))


def _class_name(path: str, labels: Labels) -> str:
    """Class of the image at the relative `path`, "" if it has none."""
    if labels == "subfolder":
        return path.split(os.sep)[0] if os.sep in path else ""
    if labels == "prefix":
        prefix, underscore, _ = os.path.basename(path).partition("_")
        return prefix if underscore else ""
    return ""
