"""Make a data set from an .npz file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from jobs.data.importers.writer import Summary, Writer, blocks_of
from jobs.data.npz_arrays import read_header
from jobs.errors import UserError


def import_npz(source: Path, writer: Writer) -> Summary:
    """Write the images `arr_0` or `images`, uint8 [N, H, W, C], and the labels `arr_1` or `labels`, integers [N], if any.

    The images pass through memory in blocks. Raises UserError that names the file and the array which does not fit.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            name = _first_member(archive, "arr_0", "images")
            if name is None:
                raise UserError(f"{source}: has neither arr_0 nor images; it holds: {', '.join(archive.namelist())}")
            labels = _read_labels(source, archive)
            with archive.open(name) as member:
                header = read_header(member)
                if header.dtype != np.uint8 or len(header.shape) != 4 or 0 in header.shape:
                    raise UserError(f"{source}: {name} is {header.dtype} {list(header.shape)}; it must be uint8 [N, H, W, C]")
                if header.fortran_order:
                    raise UserError(f"{source}: {name} is stored in Fortran order; save it with numpy.ascontiguousarray")
                if labels is not None and len(labels) != header.shape[0]:
                    raise UserError(f"{source}: {len(labels)} labels for {header.shape[0]} images")
                return writer.write(blocks_of(member, header.shape), header.shape, labels, [], f"npz file {source}")
    except FileNotFoundError as error:
        raise UserError(f"{source}: no such file") from error
    except (zipfile.BadZipFile, EOFError, zlib.error, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{source}: not an .npz file, or a damaged one ({error})") from error


def _first_member(archive: zipfile.ZipFile, *names: str) -> str | None:
    return next((f"{name}.npy" for name in names if f"{name}.npy" in archive.namelist()), None)


def _read_labels(source: Path, archive: zipfile.ZipFile) -> np.ndarray | None:
    """Labels int64 [N], None if there are none."""
    name = _first_member(archive, "arr_1", "labels")
    if name is None:
        return None
    with archive.open(name) as member:
        header = read_header(member)
        if header.dtype.kind not in "iu" or len(header.shape) != 1:
            raise UserError(f"{source}: {name} is {header.dtype} {list(header.shape)}; labels must be whole numbers [N]")
        labels = np.frombuffer(member.read(), header.dtype).astype(np.int64)
    if len(labels) != header.shape[0] or (labels < 0).any():
        raise UserError(f"{source}: {name} must hold {header.shape[0]} labels of 0 and up")
    return labels
