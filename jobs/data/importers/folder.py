"""Make a data set from a folder of image files."""

import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Literal

import numpy as np

from jobs.data.image_files import Decoded, Done, decode_image, in_words, list_images
from jobs.data.importers.writer import Summary, Writer, blocks_of
from jobs.errors import UserError
from jobs.quantities import plural
from jobs.storage.names import listed
from jobs.terminal import printable

_BLOCK, _BLOCK_BYTES = 256, 64 << 20  # images, and their bytes, decoded at a time
_NAMED = 10  # unusable images named in an error

Labels = Literal["subfolder", "prefix", "none"]


def import_folder(source: Path, writer: Writer, image_size: int, labels: Labels, channels: Literal[1, 3],
                  on_error: Literal["refuse", "skip"], report: Callable[[int, int], None] | None = None) -> Summary:
    """Write all images in and below the folder `source`, in the order of their paths, as squares of `image_size`.

    The class of an image is its first sub-folder ("subfolder") or its file name up to the first "_" ("prefix"); ids follow
    the alphabet, or the numbers if all names are numbers. If images cannot be used, "skip" leaves them out and lists them in
    the summary, and "refuse" raises UserError, after all images have been tried, that names the first ten.
    `report(done, total)` is called now and then. The disk of the output must hold the result twice.
    """
    if image_size < 1:
        raise UserError(f"image_size is {image_size}; it must be at least 1")
    listing = list_images(source)
    paths = listing.images
    used: list[str] = []
    bad: list[tuple[str, str]] = []
    done, deep = Counter[Done](), dict[int, int]()  # deep: bits that images of 16 bits need, by their place in the spool
    with writer.spool() as spool:
        for number, (path, result) in enumerate(_decode_all(source, paths, image_size, channels, labels), start=1):
            if isinstance(result, str):
                bad.append((printable(path), result))
            else:
                if result.bits is not None:
                    deep[len(used)] = result.bits
                used.append(path)
                done.update(result.done)
                spool.write(result.pixels.tobytes())
            if report and (number % _BLOCK == 0 or number == len(paths)):
                report(number, len(paths))
        if bad and (on_error == "refuse" or not used):
            raise UserError(_refusal(source, bad, len(paths), on_error))
        bits = max(deep.values(), default=16)
        if bits < 16:
            _decode_again(source, {place: used[place] for place in deep}, image_size, channels, bits, spool)
        # Classes of skipped images stay, so that one more damaged file does not renumber the others.
        classes, order = _in_order({_class_name(path, labels) for path in paths} - {""})
        ids = {name: index for index, name in enumerate(classes)}
        label_ids = None if labels == "none" else np.array([ids[_class_name(path, labels)] for path in used], np.int64)
        shape = (len(used), image_size, image_size, channels)
        remarks = [*order, *_remarks(done, len(deep), bits)]
        remarks += [f"left out {left_out}"] if (left_out := listing.left_out()) else []
        spool.seek(0)
        return writer.write(blocks_of(spool, shape), shape, label_ids, classes,
                            f"folder {source}, {image_size}x{image_size}, labels: {labels}", bad, remarks)


def _decode_again(folder: Path, paths: dict[int, str], image_size: int, channels: int, bits: int, spool: IO[bytes]) -> None:
    """Write images of 16 bits anew, which need only `bits`, to their places in the spool. Raises UserError if one is gone."""
    for place, path in paths.items():
        result = decode_image(folder / path, image_size, channels, bits)
        if isinstance(result, str):
            raise UserError(f"{folder / printable(path)}: changed while it was read ({result})")
        spool.seek(place * result.pixels.size)
        spool.write(result.pixels.tobytes())


def _in_order(names: set[str]) -> tuple[list[str], list[str]]:
    """The classes in the order of their ids, and remarks: numbers in their order, other names in that of the alphabet."""
    if not names:
        return [], []
    numbers = all(name.isascii() and name.isdigit() for name in names)
    classes = sorted(names, key=lambda name: (int(name), name)) if numbers else sorted(names)
    remarks = [f"classes in the order of {'their numbers' if numbers else 'the alphabet'}: {listed(classes)}"]
    alike = Counter(unicodedata.normalize("NFKC", name).casefold() for name in classes)
    if twice := [name for name in classes if alike[unicodedata.normalize("NFKC", name).casefold()] > 1]:
        remarks.append(f"these classes have nearly the same name, and are kept apart: {listed(twice)}")
    return classes, remarks


def _remarks(done: Counter[Done], deep: int, bits: int) -> list[str]:
    """What was done to the images, in words."""
    remarks = [in_words(done)] if done else []
    if bits < 16:
        remarks.append(f"{plural(deep, 'image')} of 16 bits: no value needs more than {bits}, so {bits} bits were made 8")
    return remarks


def _class_name(path: str, labels: Labels) -> str:
    """Class of the image at the relative `path`, "" if it has none."""
    if labels == "subfolder":
        return path.split(os.sep)[0] if os.sep in path else ""
    if labels == "prefix":
        prefix, underscore, _ = os.path.basename(path).partition("_")
        return prefix if underscore else ""
    return ""


def _decode_all(folder: Path, paths: list[str], image_size: int, channels: int,
                labels: Labels) -> Iterator[tuple[str, Decoded | str]]:
    """Each path with its image, or with the reason why it cannot be used."""
    def decode(path: str) -> Decoded | str:
        if labels == "subfolder" and not _class_name(path, labels):
            return "not in a sub-folder, so it has no label"
        if labels == "prefix" and not _class_name(path, labels):
            return 'no class name before a "_" in its file name'
        return decode_image(folder / path, image_size, channels)

    # PIL releases Python's lock while it decodes, so threads run side by side.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        rows = max(1, min(_BLOCK, _BLOCK_BYTES // (image_size ** 2 * channels)))
        for start in range(0, len(paths), rows):
            block = paths[start:start + rows]
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
