"""Make a data set from downsampled ImageNet in .npz files (Chrabaszcz, Loshchilov, Hutter 2017, arXiv 1707.08819).

Each file has `data`, uint8 [N, 3 * S * S], all red values of an image first, and `labels` from 1.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jobs.data.importers.averaged import averaged
from jobs.data.importers.class_names import read_class_names
from jobs.data.importers.writer import Summary, Writer, blocks_of
from jobs.data.npz_arrays import ArrayHeader, open_npz
from jobs.errors import UserError
from jobs.quantities import plural
from jobs.storage.names import listed

_CLASSES, _BATCHES = 1000, 10
_BATCH = re.compile(r"train_data_batch_(\d{1,3})\.npz")

Split = Literal["train", "val"]


def import_imagenet_npz(sources: Sequence[Path], writer: Writer, split: Split, class_names: Path | None = None,
                        image_size: int | None = None) -> Summary:
    """Write the images of all `sources`, in their order, with labels from 0. `image_size` averages down.

    The images pass through memory in blocks. A source is a file, or a folder whose files train*.npz or val*.npz are taken, as
    `split` says; of the ten training batches none may be missing then. `class_names` is a file such as map_clsloc.txt. Raises
    UserError that names the file which does not fit.
    """
    files = _find(sources, split)
    names = read_class_names(class_names) if class_names else None
    headers = [_header(path) for path in files]
    side = _side(files[0], headers[0])
    for path, header in zip(files, headers, strict=True):
        if _side(path, header) != side:
            raise UserError(f"{path}: images are {_side(path, header)}x{_side(path, header)}, but those of {files[0]} are "
                            f"{side}x{side}")
    labels = np.concatenate([_labels(path, header.shape[0]) for path, header in zip(files, headers, strict=True)])
    if names:
        names.check(labels, str(files[0]))
    small = averaged(_blocks(files, headers, side), (len(labels), side, side, 3), image_size, str(files[0]))
    given = ", ".join(str(source) for source in sources[:_BATCHES]) + (" and more" if len(sources) > _BATCHES else "")
    span = files[0].name if len(files) == 1 else f"{files[0].name} to {files[-1].name}"
    return writer.write(
        small.blocks, small.shape, labels, names.names if names else [],
        f"downsampled ImageNet, {plural(len(files), 'file')} of {given}{small.words}",
        remarks=[f"{plural(len(files), 'file')}: {span}",
                 "class ids are the labels less 1: the order of map_clsloc.txt, not that of the alphabet"])


def _find(sources: Sequence[Path], split: Split) -> list[Path]:
    """The files of all sources. Raises UserError if one is missing, or there twice."""
    found = list[Path]()
    for source in sources:
        found += _in_folder(source, split) if source.is_dir() else [source]
    seen = dict[object, Path]()
    for path in found:
        batch = _BATCH.fullmatch(path.name)
        for key in (path.resolve(), *([int(batch[1])] if batch else [])):
            if key in seen:
                raise UserError(f"{path}: is there twice, also as {seen[key]}; its images would count double")
            seen[key] = path
    numbers = {key for key in seen if isinstance(key, int)}
    folders = ", ".join(str(source) for source in sources if source.is_dir())
    if numbers and folders:
        if missing := [f"train_data_batch_{number}.npz" for number in range(1, _BATCHES + 1) if number not in numbers]:
            raise UserError(f"{folders}: of ImageNet's {_BATCHES} training files there is no "
                            f"{listed(missing)}; give the files one by one if you want only some")
    return found


def _in_folder(folder: Path, split: Split) -> list[Path]:
    def in_order(path: Path) -> tuple[list[int], str]:
        return [int(number) for number in re.findall(r"\d{1,9}", path.name)], path.name

    held = sorted(folder.iterdir())
    found = [path for path in held if path.name.startswith(split) and path.suffix == ".npz" and path.is_file()]
    if not found:
        pickled = " (ImageNet's pickles are not read; fetch the npz version)" if any(
            path.name.startswith(f"{split}_data") and not path.suffix for path in held) else ""
        raise UserError(f"{folder}: has no {split}*.npz{pickled}; it holds: {listed(path.name for path in held)}")
    return sorted(found, key=in_order)


def _header(path: Path) -> ArrayHeader:
    """Of `data`, uint8 [N, D]."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not an .npz file")
    with open_npz(path) as npz:
        if missing := [name for name in ("data", "labels") if name not in npz.names]:
            hint = "; `iddpm data npz` imports it" if {"arr_0", "images"} & set(npz.names) else \
                "; unpack it first" if path.suffix == ".zip" else ""
            raise UserError(f"{path}: has no {' and no '.join(missing)}; it holds: {npz.held()}{hint}")
        header = npz.header("data")
        if header.dtype != np.uint8 or len(header.shape) != 2 or 0 in header.shape:
            raise UserError(f"{npz.where('data')} is {header}; it must be uint8 [N, 3 * S * S]")
        if header.fortran_order:
            raise UserError(f"{npz.where('data')} is stored in Fortran order; save it with numpy.ascontiguousarray")
        return header


def _side(path: Path, header: ArrayHeader) -> int:
    side = math.isqrt(header.shape[1] // 3)
    if 3 * side * side != header.shape[1]:
        raise UserError(f"{path}: data.npy is {header}; {header.shape[1]} values are no square image of three colours")
    return side


def _labels(path: Path, count: int) -> np.ndarray:
    """Class ids int64 [count]."""
    with open_npz(path) as npz:
        header = npz.header("labels")
        if header.dtype.kind not in "iu" or len(header.shape) != 1:
            raise UserError(f"{npz.where('labels')} is {header}; labels must be whole numbers [N]")
        if header.shape[0] != count:
            raise UserError(f"{path}: {header.shape[0]} labels for {count} images")
        labels = npz.read("labels")
        outside = np.flatnonzero((labels < 1) | (labels > _CLASSES))
        if len(outside):
            raise UserError(f"{npz.where('labels')}: label {labels[outside[0]]} of image {outside[0]} is outside "
                            f"1 .. {_CLASSES}; {len(outside):,} such labels in all")
        return labels.astype(np.int64) - 1


def _blocks(files: list[Path], headers: list[ArrayHeader], side: int) -> Iterator[np.ndarray]:
    for path, header in zip(files, headers, strict=True):
        with open_npz(path) as npz, npz.stream("data") as (found, stream):
            if found != header:
                raise UserError(f"{path}: changed while it was read")
            for block in blocks_of(stream, header.shape):
                yield block.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)
