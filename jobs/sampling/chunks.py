"""Chunks of samples: their files, and the settings that chunks of one sampling share.

chunk-NNNNN.h5 in the folder of a sampling (`RunDir.samples_folder`) holds sample.batch_size consecutive samples; the last chunk
holds the rest. Arrays: /images uint8 [n, H, W, C], /sample_index int64 [n], /labels int64 [n] where conditional; attributes:
`settings` (JSON) and `device`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.errors import UserError
from jobs.run.given import GivenImages
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
    """Kind of the device that made the samples: "cpu" or a GPU's name."""


def sampling_settings(spec: Spec, weights_sha256: str, guide: dict | None = None, given: dict | None = None) -> dict:
    """Return all that a sample depends on besides its index, by name. `spec` holds the settings of one sampling.

    `guide`: the facts of the network that guides it (jobs.sampling.weights.LoadedGuide): its sha256, never its place.
    `given`: that of the images that samples are made of (jobs.run.given.given_facts).

    The device is recorded beside these settings, because a run may continue on another kind of device, which rounds
    differently.
    """
    return {"weights_sha256": weights_sha256, "kind": spec.kind,
            "data": spec.data.model_dump(exclude={"path", "random_flip", "random_crop"}),
            **kind_of(spec).identity(spec), "sample": spec.sample.identity(exclude={"num_samples", "at"}),
            **({"guide": guide} if guide else {}), **({"given": given} if given else {})}


def chunk_indices(spec: Spec, chunk: int) -> range:
    """Return the sample indices of chunk number `chunk`."""
    first = chunk * spec.sample.batch_size
    return range(first, min(first + spec.sample.batch_size, spec.sample.num_samples))


def sample_labels(spec: Spec, settings: dict, indices: range, given: GivenImages | None = None) -> np.ndarray | None:
    """Return the classes int64 [n] of these samples, None without classes. Classes take turns, so all are equally frequent.

    Where the network knows no classes, they are those of the guide in the sampling `settings`, if it is a classifier. Samples
    that are made of `given` images have the classes of these, if these have any. Raises UserError where the guide does not know
    one of these.
    """
    classes = spec.data.classes or (settings["guide"]["classes"] if "guide" in settings else None)
    if given is not None and (labels := given.labels(range(spec.sample.num_samples))) is not None:
        if classes and labels.max() >= classes:
            raise UserError(f"sample.guidance: its classifier knows {classes} classes, from 0, but among the images that samples "
                            f"are made of is one of class {labels.max()}")
        return labels[indices.start:indices.stop]
    return np.array(indices, dtype=np.int64) % classes if classes else None


def number_of_chunks(spec: Spec) -> int:
    """Return the number of chunks of one sampling."""
    return -(-spec.sample.num_samples // spec.sample.batch_size)


def chunk_file(folder: Path, chunk: int) -> Path:
    """Return the file of chunk number `chunk` in the folder of a sampling."""
    return folder / f"chunk-{chunk:05}.h5"


def write_chunk(path: Path, chunk: Chunk, settings: dict) -> None:
    """Write a chunk that was made with `settings`: a whole file or none."""
    arrays = {"images": chunk.images, "sample_index": chunk.sample_index}
    if chunk.labels is not None:
        arrays["labels"] = chunk.labels
    with atomic_path(path) as temporary:
        temporary.write_bytes(as_bytes(arrays, {"settings": json.dumps(settings), "device": chunk.device}))


class DamagedChunk(UserError):
    """A chunk file that is not what `write_chunk` wrote."""


class OtherSamples(UserError):
    """A whole chunk of the right settings with other samples: the last one, when the number of samples was another."""


def chunk_reader() -> SameLayoutReader:
    """Return a reader for `read_chunk` that is faster for many chunks than for one."""
    return SameLayoutReader("images", "sample_index", "labels")


def read_chunk(path: Path, indices: range, settings: dict, reader: SameLayoutReader | None = None) -> Chunk:
    """Return the chunk in `path`, which holds the samples `indices` made with `settings`.

    Raises DamagedChunk where the file cannot be read, OtherSamples where it holds other samples, UserError that names the
    difference where settings differ.
    """
    try:
        arrays, attributes = (reader or chunk_reader()).read(path)
        chunk = Chunk(arrays["images"], arrays["sample_index"], arrays.get("labels"), attributes["device"])
        theirs = json.loads(attributes["settings"])
    except (OSError, KeyError, ValueError) as error:
        raise DamagedChunk(f"{path}: cannot be read ({error})") from error
    if theirs != settings:
        raise UserError(f"{path}: made with other weights or settings: {differences(theirs, settings)}")
    if chunk.sample_index.tolist() != list(indices) or len(chunk.images) != len(indices):
        raise OtherSamples(f"{path}: does not hold the samples {indices.start} to {indices.stop - 1}")
    return chunk


def differences(theirs: dict, ours: dict) -> str:
    """Return the differences between two sampling settings, such as "sample.seed 1 instead of 0"."""
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
