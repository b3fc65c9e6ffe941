"""Making data sets: one HDF5 file out of digits, a folder of images, the CIFAR-10 archive or an .npz file.

Every file is written beside its name and renamed when whole. `jobs.data.dataset` says what is inside and reads it.
"""

import json
import math
import os
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import h5py
import numpy as np

from jobs.data.dataset import open_data
from jobs.data.image_files import decode_image, list_images
from jobs.data.importers.cifar10 import read_cifar10
from jobs.errors import UserError
from jobs.storage.files import atomic_path
from jobs.storage.hdf5 import Layout, lay_out

_BLOCK = 256  # images in memory at a time
_NAMED = 10  # bad images named in an error


@dataclass(frozen=True)
class ImportSummary:
    """`count` images written; `skipped` ones as (path, reason); `classes` in the order of their ids."""
    count: int
    skipped: list[tuple[str, str]] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)


def import_digits(output: Path, split: Literal["train", "test"]) -> ImportSummary:
    """Write scikit-learn's handwritten digits: the first 1500 (train) or the remaining 297 (test), 8x8 grey."""
    data = open_data({"train": "digits", "test": "digits-test"}[split], 8, 1)
    with _new_file(output) as temporary:
        _write(temporary, [data.images], data.images.shape, data.labels, data.class_names, data.source)
    return ImportSummary(len(data), classes=data.class_names)


# A folder of images -------------------------------------------------------------------------------------------------

def import_folder(folder: Path, output: Path, image_size: int, labels: Literal["subfolder", "prefix", "none"],
                  channels: Literal[1, 3], on_error: Literal["refuse", "skip"],
                  report: Callable[[int, int], None] | None = None) -> ImportSummary:
    """Write all images in and below `folder`, in the order of their paths, as image_size squares.

    The label is the first sub-folder's name or the file name's part before the first "_"; ids are alphabetical.
    Images that cannot be used are skipped and listed, or, with "refuse", make a UserError that names the first ten
    after all have been looked at; then nothing is written. `report(done, total)` is called now and then.
    While this runs it needs disk space for the result twice, beside `output`.
    """
    if image_size < 1:
        raise UserError(f"image_size is {image_size}; it must be at least 1")
    folder, output = Path(folder), Path(output)
    paths = list_images(folder)
    names: list[str] = []  # class of each image kept
    bad: list[tuple[str, str]] = []
    # How many images are good is known only at the end, and a contiguous data set cannot shrink: spool them.
    with _new_file(output) as temporary, tempfile.TemporaryFile(dir=output.parent) as spool:
        for done, (path, result) in enumerate(_decode_all(folder, paths, image_size, channels, labels), start=1):
            if isinstance(result, str):
                bad.append((_printable(path), result))
            else:
                names.append(_class_name(path, labels))
                spool.write(result.tobytes())
            if report and (done % _BLOCK == 0 or done == len(paths)):
                report(done, len(paths))
        if bad and (on_error == "refuse" or not names):
            raise UserError(_refusal(folder, bad, len(paths), on_error))
        # Classes of skipped images stay, so that one more damaged file does not renumber the others.
        classes = sorted({_class_name(path, labels) for path in paths} - {""})
        ids = {name: index for index, name in enumerate(classes)}
        label_ids = None if labels == "none" else np.array([ids[name] for name in names], np.int64)
        shape = (len(names), image_size, image_size, channels)
        spool.seek(0)
        _write(temporary, _blocks_of(spool, shape), shape, label_ids, classes,
               f"folder {folder}, {image_size}x{image_size}, labels: {labels}", len(bad))
    return ImportSummary(len(names), bad, classes)


def _class_name(path: str, labels: str) -> str:
    """Class of the image at the relative `path`; "" where there is none."""
    if labels == "subfolder":
        return path.split(os.sep)[0] if os.sep in path else ""
    if labels == "prefix":
        prefix, underscore, _ = os.path.basename(path).partition("_")
        return prefix if underscore else ""
    return ""


def _decode_all(folder: Path, paths: list[str], image_size: int, channels: int,
                labels: str) -> Iterator[tuple[str, np.ndarray | str]]:
    """Each path with its image or the reason why there is none, in order, few in memory at a time."""
    def decode(path: str) -> np.ndarray | str:
        if labels == "subfolder" and not _class_name(path, labels):
            return "not in a sub-folder, so it has no label"
        if labels == "prefix" and not _class_name(path, labels):
            return 'no class name before a "_" in its file name'
        return decode_image(folder / path, image_size, channels)

    # PIL decodes without Python's lock, so threads do run side by side.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for start in range(0, len(paths), _BLOCK):
            block = paths[start:start + _BLOCK]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PIL's, on odd metadata
                decoded = list(threads.map(decode, block))
            yield from zip(block, decoded)


def _refusal(folder: Path, bad: list[tuple[str, str]], total: int, on_error: str) -> str:
    lines = [f"  {path}: {reason}" for path, reason in bad[:_NAMED]]
    if len(bad) > _NAMED:
        lines.append(f"  and {len(bad) - _NAMED} more")
    advice = "; mend or remove them, or leave them out with --on-error skip" if on_error == "refuse" else ""
    return "\n".join([f"{folder}: {len(bad)} of {total} images cannot be used, nothing was written{advice}:", *lines])


def _printable(text: str) -> str:
    """`text` on one line and in UTF-8, whatever bytes a file name has."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


# Arrays that exist already -------------------------------------------------------------------------------------------

def import_cifar10(archive: Path, output: Path, split: Literal["train", "test"]) -> ImportSummary:
    """Write CIFAR-10's 50000 training or 10000 test images, 32x32 RGB, from `cifar-10-python.tar.gz` or the
    unpacked `cifar-10-batches-py`; labels have the data set's own ids."""
    images, labels, classes = read_cifar10(Path(archive), split)
    shape = (len(labels), 32, 32, 3)
    with _new_file(output) as temporary:
        _write(temporary, images, shape, labels, classes, f"CIFAR-10, {split}")
    return ImportSummary(len(labels), classes=classes)


def import_npz(source: Path, output: Path) -> ImportSummary:
    """Write the images `arr_0` or `images` uint8 [N, H, W, C] and, where there are any, the labels `arr_1` or
    `labels` (integers [N]) of an .npz file; images are never in memory as a whole."""
    source = Path(source)
    try:
        with zipfile.ZipFile(source) as archive:
            images_name = _first_member(archive, "arr_0", "images")
            labels_name = _first_member(archive, "arr_1", "labels")
            if images_name is None:
                raise UserError(f"{source}: has neither arr_0 nor images; it holds: {', '.join(archive.namelist())}")
            labels = None if labels_name is None else _npz_labels(source, archive, labels_name)
            with archive.open(images_name) as member:
                shape, dtype = _npy_header(source, images_name, member)
                if dtype != np.uint8 or len(shape) != 4 or 0 in shape:
                    raise UserError(f"{source}: {images_name} is {dtype} {list(shape)}; it must be uint8 [N, H, W, C]")
                if labels is not None and len(labels) != shape[0]:
                    raise UserError(f"{source}: {len(labels)} labels for {shape[0]} images")
                with _new_file(output) as temporary:
                    _write(temporary, _blocks_of(member, shape), shape, labels, [], f"npz file {source}")
    except FileNotFoundError as error:
        raise UserError(f"{source}: no such file") from error
    except (zipfile.BadZipFile, EOFError, zlib.error, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{source}: not an .npz file, or a damaged one ({error})") from error
    return ImportSummary(shape[0])


def _first_member(archive: zipfile.ZipFile, *names: str) -> str | None:
    return next((f"{name}.npy" for name in names if f"{name}.npy" in archive.namelist()), None)


def _npy_header(source: Path, name: str, member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(member)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, column_major, dtype = read_header(member)
    if column_major and len(shape) > 1:
        raise UserError(f"{source}: {name} is stored in Fortran order; save it with numpy.ascontiguousarray")
    return shape, dtype


def _npz_labels(source: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as member:
        shape, dtype = _npy_header(source, name, member)
        if dtype.kind not in "iu" or len(shape) != 1:
            raise UserError(f"{source}: {name} is {dtype} {list(shape)}; labels must be whole numbers [N]")
        labels = np.frombuffer(member.read(), dtype).astype(np.int64)
    if len(labels) != shape[0] or (labels < 0).any():
        raise UserError(f"{source}: {name} must hold {shape[0]} labels of 0 and up")
    return labels


# The HDF5 file ------------------------------------------------------------------------------------------------------

@contextmanager
def _new_file(output: Path) -> Iterator[Path]:
    """`atomic_path`, but never in the place of something that is not a data set, the source for one."""
    output = Path(output)
    if output.exists() and not (output.is_file() and h5py.is_hdf5(output)):
        raise UserError(f"{output}: exists and is not an HDF5 file; choose another output")
    with atomic_path(output) as temporary:
        yield temporary


def _blocks_of(stream: IO[bytes], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The rest of `stream` as blocks uint8 [up to 256, H, W, C]. Raises ValueError where it is shorter or longer."""
    image_bytes = math.prod(shape[1:])
    for start in range(0, shape[0], _BLOCK):
        count = min(_BLOCK, shape[0] - start)
        content = stream.read(count * image_bytes)
        if len(content) != count * image_bytes:
            raise ValueError(f"ends in image {start + len(content) // image_bytes} of {shape[0]}")
        yield np.frombuffer(content, np.uint8).reshape(count, *shape[1:])
    if stream.read(1):  # reading on to the end is also what makes zipfile compare checksums
        raise ValueError(f"goes on after the last of {shape[0]} images")


def _write(path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, ...], labels: np.ndarray | None,
           class_names: list[str], source: str, skipped: int = 0) -> None:
    """Write `blocks` of images, together uint8 `shape` = [N, H, W, C], and `labels` [N] to the new file `path`."""
    layouts = {"images": Layout(shape, np.uint8)} | ({} if labels is None else {"labels": Layout(shape[:1], "<i8")})
    attributes = {"source": _printable(source), "class_names": json.dumps(class_names), "skipped": skipped}
    places = lay_out(path, layouts, attributes)
    with open(path, "r+b") as file:
        file.seek(places["images"][0])
        for block in blocks:
            file.write(np.ascontiguousarray(block))
        assert file.tell() == places["images"][0] + math.prod(shape), "blocks do not add up to the shape"
        if labels is not None:
            file.seek(places["labels"][0])
            file.write(labels.astype("<i8"))
