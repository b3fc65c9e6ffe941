"""Chunks half-way: their state, saved now and then, so that whoever takes such a chunk next goes on from there.

partial-NNNNN.h5, beside where the chunk will be: /state/NAME [n, ...] for each tensor of the sampler's state (see
`diffusion.samplers.chain`), /generator uint8, the state of the chunk's random stream; attributes: `next_step`, and `identity`
(JSON), which names the chunk and what may go on with it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from jobs.errors import UserError
from jobs.run.progress import note
from jobs.sampling.chunks import differences
from jobs.storage.files import atomic_path
from jobs.storage.sealed import as_bytes, open_sealed


@dataclass(frozen=True)
class Partial:
    state: dict[str, np.ndarray]
    """Of the sampler, by name."""
    next_step: int
    """The step of the chain that comes next."""
    generator: np.ndarray


def partial_file(folder: Path, chunk: int) -> Path:
    return folder / f"partial-{chunk:05}.h5"


def partial_identity(settings: dict, indices: range, device: str) -> dict:
    """What must agree for a chunk to go on as if it had never stopped: stricter than what makes chunks belong together.

    A stream's state means nothing to another kind of device, and one chunk is of one kind of arithmetic.
    """
    return {**settings, "indices": [indices.start, indices.stop], "device": device, "torch": torch.__version__}


def save_partial(path: Path, partial: Partial, identity: dict) -> None:
    """Replace what is in `path`. Where that fails, as on a full disk, it stays: a note, for this only spares work."""
    arrays = {"generator": partial.generator} | {f"state/{name}": array for name, array in partial.state.items()}
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(as_bytes(arrays, {"next_step": partial.next_step, "identity": json.dumps(identity)}))
    except (OSError, UserError) as error:
        note(f"half a chunk could not be saved: {error}")


def take_partial(path: Path, identity: dict) -> Partial | None:
    """What `save_partial` put into `path` under the same identity; None where nothing is there.

    What is damaged or of another identity is removed, with a note.
    """
    try:
        with open_sealed(path) as file:
            theirs = json.loads(file.attrs["identity"])
            state = {name: dataset[:] for name, dataset in file["state"].items()}
            partial = Partial(state, int(file.attrs["next_step"]), file["generator"][:])
        if theirs == identity:
            return partial
        problem = f"begun otherwise: {differences(theirs, identity)}"
    except FileNotFoundError:
        return None
    except (OSError, KeyError, ValueError) as error:
        problem = f"cannot be read ({error})"
    note(f"{path}: {problem}; its chunk starts over")
    path.unlink(missing_ok=True)
    return None
