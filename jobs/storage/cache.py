"""Arrays in runs/.cache/, computed once for many runs. The name of a file tells from which content it was computed."""

import io
import zipfile
from pathlib import Path

import numpy as np

from jobs.storage.files import atomic_path


def store_arrays(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays to `file`, an .npz. Raises UserError if the disk refuses."""
    content = io.BytesIO()  # Python writes the file, so that a full disk raises OSError
    np.savez(content, **arrays)  # type: ignore[arg-type]  # mypy takes an array for numpy's newer keyword `allow_pickle`
    with atomic_path(file) as temporary:
        temporary.write_bytes(content.getbuffer())


def load_arrays(file: Path) -> dict[str, np.ndarray] | None:
    """Read the arrays of `file`. None if it is missing or damaged: the caller computes the arrays again."""
    try:
        with np.load(io.BytesIO(file.read_bytes())) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
