"""Make a data set from a folder of image files."""

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from jobs.data.image_files import decode_image, list_images
from jobs.data.importers.writer import Summary, Writer, blocks_of
from jobs.errors import UserError
from jobs.storage.names import printable

_BLOCK = 256  # images decoded at a time
_NAMED = 10  # unusable images named in an error

Labels = Literal["subfolder", "prefix", "none"]


def import_folder(source: Path, writer: Writer, image_size: int, labels: Labels, channels: Literal[1, 3],
                  on_error: Literal["refuse", "skip"], report: Callable[[int, int], None] | None = None) -> Summary:
    """Write all images in and below the folder `source`, in the order of their paths, as squares of `image_size`.

    The class of an image is its first sub-folder ("subfolder") or its file name up to the first "_" ("prefix"); ids follow
    the alphabet. If images cannot be used, "skip" leaves them out and lists them in the summary, and "refuse" raises
    UserError, after all images have been tried, that names the first ten. `report(done, total)` is called now and then.
    The disk of the output must hold the result twice.
    """
    if image_size < 1:
        raise UserError(f"image_size is {image_size}; it must be at least 1")
    paths = list_images(source)
    names: list[str] = []  # class of each usable image
    bad: list[tuple[str, str]] = []
    with writer.spool() as spool:
        for done, (path, result) in enumerate(_decode_all(source, paths, image_size, channels, labels), start=1):
            if isinstance(result, str):
                bad.append((printable(path), result))
            else:
                names.append(_class_name(path, labels))
                spool.write(result.tobytes())
            if report and (done % _BLOCK == 0 or done == len(paths)):
                report(done, len(paths))
        if bad and (on_error == "refuse" or not names):
            raise UserError(_refusal(source, bad, len(paths), on_error))
        # Classes of skipped images stay, so that one more damaged file does not renumber the others.
        classes = sorted({_class_name(path, labels) for path in paths} - {""})
        ids = {name: index for index, name in enumerate(classes)}
        label_ids = None if labels == "none" else np.array([ids[name] for name in names], np.int64)
        shape = (len(names), image_size, image_size, channels)
        spool.seek(0)
        return writer.write(blocks_of(spool, shape), shape, label_ids, classes,
                            f"folder {source}, {image_size}x{image_size}, labels: {labels}", bad)


def _class_name(path: str, labels: Labels) -> str:
    """Class of the image at the relative `path`, "" if it has none."""
    if labels == "subfolder":
        return path.split(os.sep)[0] if os.sep in path else ""
    if labels == "prefix":
        prefix, underscore, _ = os.path.basename(path).partition("_")
        return prefix if underscore else ""
    return ""


def _decode_all(folder: Path, paths: list[str], image_size: int, channels: int,
                labels: Labels) -> Iterator[tuple[str, np.ndarray | str]]:
    """Each path with its image, uint8 [image_size, image_size, channels], or with the reason why it cannot be used."""
    def decode(path: str) -> np.ndarray | str:
        if labels == "subfolder" and not _class_name(path, labels):
            return "not in a sub-folder, so it has no label"
        if labels == "prefix" and not _class_name(path, labels):
            return 'no class name before a "_" in its file name'
        return decode_image(folder / path, image_size, channels)

    # PIL releases Python's lock while it decodes, so threads run side by side.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for start in range(0, len(paths), _BLOCK):
            block = paths[start:start + _BLOCK]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PIL warns about odd metadata
                decoded = list(threads.map(decode, block))
            yield from zip(block, decoded, strict=True)


def _refusal(folder: Path, bad: list[tuple[str, str]], total: int, on_error: str) -> str:
    lines = [f"  {path}: {reason}" for path, reason in bad[:_NAMED]]
    if len(bad) > _NAMED:
        lines.append(f"  and {len(bad) - _NAMED} more")
    advice = "; mend or remove them, or leave them out with --on-error skip" if on_error == "refuse" else ""
    return "\n".join([f"{folder}: {len(bad)} of {total} images cannot be used, nothing was written{advice}:", *lines])
