"""Chunks half-way: the state is saved every few minutes, and the rank that takes such a chunk next resumes it.

partial-NNNNN.h5, beside the place of the chunk: the tensors of the kind's `Generated.state`, each under its name, and
/generator uint8, the state of the chunk's random stream; attributes: `left`, the steps that are left, and `identity` (JSON),
which names the chunk and all that must agree so that it can be resumed.
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
    """All that the sampler needs to continue; see jobs.kinds.protocol.Generated."""
    generator: np.ndarray
    """State of the random stream."""


def partial_file(folder: Path, chunk: int) -> Path:
    """Return the file of the half-way chunk number `chunk` in the folder of a sampling."""
    return folder / f"partial-{chunk:05}.h5"


def partial_identity(settings: dict, indices: range, device: str) -> dict:
    """Return all that must agree so that a resumed chunk is equal to an uninterrupted one, by name.

    Chunks of one sampling may come from several kinds of device and versions of torch; one chunk may not, because their
    arithmetic differs, and so does the state of their random streams.
    """
    return {**settings, "indices": [indices.start, indices.stop], "device": device, "torch": torch.__version__}


def save_partial(path: Path, partial: Partial, identity: dict) -> None:
    """Write `partial` to `path`. If that fails, as on a full disk, only print a note: the file does no more than save work."""
    arrays = {**partial.state, GENERATOR: partial.generator}
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(as_bytes(arrays, {"left": partial.left, "identity": json.dumps(identity)}))
    except (OSError, UserError) as error:
        note(f"half a chunk could not be saved: {error}")


def read_partial(path: Path, identity: dict) -> Partial | None:
    """Return the chunk that `save_partial` wrote to `path` with this identity; None where there is none.

    A file that is damaged, or has another identity, is removed with a note.
    """
    try:
        with open_sealed(path) as file:
            theirs = json.loads(file.attrs["identity"])
            arrays = {name: file[name][:] for name in file}
            partial = Partial(int(file.attrs["left"]), {name: array for name, array in arrays.items() if name != GENERATOR},
                              arrays[GENERATOR])
        if theirs != identity:
            problem = f"begun with other settings: {differences(theirs, identity)}"
        elif all(np.isfinite(array).all() for array in partial.state.values()):
            return partial
        else:
            problem = "holds values that are not finite"
    except FileNotFoundError:
        return None
    except (OSError, KeyError, ValueError, UserError) as error:
        problem = f"cannot be read ({error})"
    note(f"{path}: {problem}; its chunk starts over")
    path.unlink(missing_ok=True)
    return None
