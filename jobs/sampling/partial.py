"""Chunks half-way: their state, saved now and then, so that the rank that takes such a chunk next resumes it.

partial-NNNNN.h5, beside the place of the chunk: the tensors of the kind's `Generated.state`, each under its name, and
/generator uint8, the state of the chunk's random stream; attributes: `left`, the steps that are left, and `identity` (JSON),
which names the chunk and what may continue it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from jobs.errors import UserError
from jobs.run.progress import note
from jobs.sampling.chunks import differences
from jobs.storage.files import atomic_path
from jobs.storage.sealed import as_bytes, open_sealed

GENERATOR = "generator"


@dataclass(frozen=True)
class Partial:
    """A chunk half-way."""

    left: int
    """Steps that are left."""
    state: Mapping[str, np.ndarray]
    """All that the sampler needs to continue; see jobs.kinds.seam.Generated."""
    generator: np.ndarray
    """State of the random stream."""


def partial_file(folder: Path, chunk: int) -> Path:
    return folder / f"partial-{chunk:05}.h5"


def partial_identity(settings: dict, indices: range, device: str) -> dict:
    """Return what must agree so that a chunk continues as if it had never stopped: more than makes chunks belong together.

    The state of a random stream means nothing to another kind of device, and one chunk is of one kind of arithmetic.
    """
    return {**settings, "indices": [indices.start, indices.stop], "device": device, "torch": torch.__version__}


def save_partial(path: Path, partial: Partial, identity: dict) -> None:
    """Replace what is in `path`. Where that fails, as on a full disk, only print a note: a partial chunk only saves work."""
    arrays = {**partial.state, GENERATOR: partial.generator}
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(as_bytes(arrays, {"left": partial.left, "identity": json.dumps(identity)}))
    except (OSError, UserError) as error:
        note(f"half a chunk could not be saved: {error}")


def take_partial(path: Path, identity: dict) -> Partial | None:
    """Return what `save_partial` put into `path` under this identity; None where there is no such file.

    A file that is damaged or of another identity is removed, with a note.
    """
    try:
        with open_sealed(path) as file:
            theirs = json.loads(file.attrs["identity"])
            arrays = {name: file[name][:] for name in file}
            partial = Partial(int(file.attrs["left"]), {name: array for name, array in arrays.items() if name != GENERATOR},
                              arrays[GENERATOR])
        if theirs == identity:
            return partial
        problem = f"begun with other settings: {differences(theirs, identity)}"
    except FileNotFoundError:
        return None
    except (OSError, KeyError, ValueError) as error:
        problem = f"cannot be read ({error})"
    note(f"{path}: {problem}; its chunk starts over")
    path.unlink(missing_ok=True)
    return None
