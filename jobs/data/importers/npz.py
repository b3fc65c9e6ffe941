"""Make a data set from an .npz file."""

from pathlib import Path

import numpy as np

from jobs.data.dataset import order_hint
from jobs.data.importers.averaged import averaged
from jobs.data.importers.class_names import read_class_names
from jobs.data.importers.writer import Summary, Writer, blocks_of
from jobs.data.npz_arrays import Npz, open_npz
from jobs.errors import UserError


def import_npz(source: Path, writer: Writer, image_size: int | None = None, class_names: Path | None = None) -> Summary:
    """Write the images `arr_0` or `images`, uint8 [N, H, W, C] with H = W, and the labels `arr_1` or `labels`, if any.

    `image_size` averages the images down. They pass through memory in blocks. Raises UserError that names the file and the array
    which does not fit.
    """
    if not source.is_file() and source.exists():
        raise UserError(f"{source}: not an .npz file")
    names = read_class_names(class_names) if class_names else None
    with open_npz(source) as npz:
        name = next((name for name in ("arr_0", "images") if name in npz.names), None)
        if name is None:
            hint = "; `iddpm data imagenet-npz` imports downsampled ImageNet" if {"data", "labels"} <= set(npz.names) else ""
            raise UserError(f"{source}: has neither arr_0 nor images; it holds: {npz.held()}{hint}")
        with npz.stream(name) as (header, stream):
            if header.dtype != np.uint8 or len(header.shape) != 4 or 0 in header.shape:
                raise UserError(f"{npz.where(name)} is {header}; it must be uint8 [N, H, W, C]")
            if header.fortran_order:
                raise UserError(f"{npz.where(name)} is stored in Fortran order; save it with numpy.ascontiguousarray")
            count, height, width, _ = header.shape
            if height != width:
                raise UserError(f"{npz.where(name)}: images are {height}x{width}; they must be square{order_hint(header.shape)}")
            labels = _read_labels(npz, count)
            if names:
                names.check(labels, str(source))
            small = averaged(blocks_of(stream, header.shape), header.shape, image_size, npz.where(name))
            return writer.write(small.blocks, small.shape, labels, names.names if names else [],
                                f"npz file {source}{small.words}")


def _read_labels(npz: Npz, count: int) -> np.ndarray | None:
    """Labels int64 [count], None if there are none."""
    name = next((name for name in ("arr_1", "labels") if name in npz.names), None)
    if name is None:
        return None
    header = npz.header(name)
    if header.dtype.kind not in "iu" or len(header.shape) != 1:
        raise UserError(f"{npz.where(name)} is {header}; labels must be whole numbers [N]")
    if header.shape[0] != count:
        raise UserError(f"{npz.path}: {header.shape[0]} labels for {count} images")
    labels = npz.read(name).astype(np.int64)
    if (labels < 0).any():
        raise UserError(f"{npz.where(name)} must hold {count} labels of 0 and up")
    return labels
