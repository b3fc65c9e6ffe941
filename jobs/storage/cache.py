"""runs/.cache/: arrays that are computed once for many runs, in files named by the content that they come from."""

import io
import zipfile
from pathlib import Path

import numpy as np

from jobs.storage.files import atomic_path


def store_arrays(file: Path, arrays: dict[str, np.ndarray]) -> None:
    content = io.BytesIO()  # through Python, so that a full disk is an OSError
    np.savez(content, **arrays)
    with atomic_path(file) as temporary:
        temporary.write_bytes(content.getbuffer())


def load_arrays(file: Path) -> dict[str, np.ndarray] | None:
    """None where the file is not there, or damaged: then it is to be computed again."""
    try:
        with np.load(io.BytesIO(file.read_bytes())) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
