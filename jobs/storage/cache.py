"""Arrays in runs/.cache/, computed once for many runs. The name of a file tells from which content it was computed."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np

from jobs.errors import UserError
from jobs.storage.files import atomic_path, make_dir, temporary_name


def store_arrays(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays to `file`, an .npz. Raises UserError if the disk refuses."""
    content = io.BytesIO()  # Python writes the file, so that a full disk raises OSError
    np.savez(content, **arrays)  # type: ignore[arg-type]  # mypy takes an array for numpy's newer keyword `allow_pickle`
    with atomic_path(file) as temporary:
        temporary.write_bytes(content.getbuffer())


def cache_folder(wanted: Path, instead: Path) -> Path:
    """Return the folder `wanted` if this process can write there, else `instead` with links to the files that `wanted` has.

    `wanted` may be a colleague's. Raises UserError if `instead` cannot be written either.
    """
    if _is_writable(wanted):
        return wanted
    make_dir(instead)
    for file in wanted.glob("*.npz") if os.access(wanted, os.R_OK | os.X_OK) else []:
        if not os.path.lexists(link := instead / file.name):
            link.symlink_to(file.resolve())
    return instead


def _is_writable(folder: Path) -> bool:
    probe = temporary_name(folder / "probe")
    try:
        make_dir(folder)
        probe.touch()
        probe.unlink()
    except (OSError, UserError):
        return False
    return True


def load_arrays(file: Path) -> dict[str, np.ndarray] | None:
    """Read the arrays of `file`. None if it is missing or damaged: the caller computes the arrays again."""
    try:
        with np.load(io.BytesIO(file.read_bytes())) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
