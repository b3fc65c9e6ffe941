"""Chunks of samples: what makes two of them belong together, and their files.

chunk-NNNNN.h5 in a point's folder (`jobs.spec.samplings.samples_folder`) holds sample.batch_size consecutive samples (the last
one what is left): /images uint8 [n, H, W, C], /sample_index int64 [n], /labels int64 [n] where conditional; attributes:
`settings` (JSON) and `device`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.errors import UserError
from jobs.spec.kinds import kind_of
from jobs.spec.sections import Spec
from jobs.storage.files import atomic_path
from jobs.storage.sealed import SameLayoutReader, as_bytes


@dataclass(frozen=True)
class Chunk:
    """n consecutive samples: images uint8 [n, H, W, C], sample_index int64 [n], labels int64 [n] or None."""

    images: np.ndarray
    sample_index: np.ndarray
    labels: np.ndarray | None
    device: str
    """Kind of the device that made them: "cpu" or a GPU's name."""


def sampling_settings(spec: Spec, weights_sha256: str) -> dict:
    """Return all that a sample depends on besides its index, by name; `spec` has the settings of its sampling in it.

    The device is recorded beside these settings: another kind of device rounds differently, but a run may continue on it.
    """
    return {"weights_sha256": weights_sha256, "kind": spec.kind, "data": spec.data.model_dump(exclude={"path", "random_flip"}),
            **kind_of(spec).identity(spec), "sample": spec.sample.model_dump(exclude={"num_samples", "at"})}


def chunk_indices(spec: Spec, chunk: int) -> range:
    """The sample indices of chunk number `chunk`."""
    first = chunk * spec.sample.batch_size
    return range(first, min(first + spec.sample.batch_size, spec.sample.num_samples))


def sample_labels(spec: Spec, indices: range) -> np.ndarray | None:
    """Classes int64 [n] of these samples: in turns, so that each is there equally often. None without classes."""
    return np.array(indices, dtype=np.int64) % spec.data.classes if spec.data.classes else None


def number_of_chunks(spec: Spec) -> int:
    return -(-spec.sample.num_samples // spec.sample.batch_size)


def chunk_file(folder: Path, chunk: int) -> Path:
    return folder / f"chunk-{chunk:05}.h5"


def write_chunk(path: Path, chunk: Chunk, settings: dict) -> None:
    arrays = {"images": chunk.images, "sample_index": chunk.sample_index}
    if chunk.labels is not None:
        arrays["labels"] = chunk.labels
    with atomic_path(path) as temporary:
        temporary.write_bytes(as_bytes(arrays, {"settings": json.dumps(settings), "device": chunk.device}))


class DamagedChunk(UserError):
    """A chunk file that is not what `write_chunk` wrote."""


def alike_chunks() -> SameLayoutReader:
    """For `read_chunk` of many."""
    return SameLayoutReader("images", "sample_index", "labels")


def read_chunk(path: Path, indices: range, settings: dict, files: SameLayoutReader | None = None) -> Chunk:
    """The chunk in `path`, after checking that it is whole and made with `settings`.

    Raises DamagedChunk where it is not whole, UserError (naming what differs) where it is another run's.
    """
    try:
        arrays, attributes = (files or alike_chunks()).read(path)
        chunk = Chunk(arrays["images"], arrays["sample_index"], arrays.get("labels"), attributes["device"])
        theirs = json.loads(attributes["settings"])
    except (OSError, KeyError, ValueError) as error:
        raise DamagedChunk(f"{path}: cannot be read ({error})") from error
    if theirs != settings:
        raise UserError(f"{path}: made with other weights or settings: {differences(theirs, settings)}")
    if chunk.sample_index.tolist() != list(indices) or len(chunk.images) != len(indices):
        raise UserError(f"{path}: does not hold the samples {indices.start} to {indices.stop - 1}")
    return chunk


def differences(theirs: dict, ours: dict) -> str:
    """Where two sampling settings differ, such as "sample.seed 1 instead of 0"."""
    return "; ".join(_differences(theirs, ours))


def _differences(theirs: dict, ours: dict, prefix: str = "") -> list[str]:
    found = []
    for key in sorted(theirs.keys() | ours.keys()):
        left, right = theirs.get(key), ours.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += _differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found.append(f"{prefix}{key} {str(left)[:16]} instead of {str(right)[:16]}")
    return found
