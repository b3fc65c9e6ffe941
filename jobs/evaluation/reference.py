"""The reference's side of the metrics: computed once for all runs that share a reference, or read from the field's files."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jobs.data.fingerprints import kept_fingerprint
from jobs.data.sources import STATISTICS, Reference
from jobs.errors import UserError
from jobs.evaluation.extraction import Statistics, extract
from jobs.evaluation.features import Features
from jobs.evaluation.metrics.frechet import GaussianFit
from jobs.parallel.group import Group, on_main
from jobs.spec.features import BUILT_IN
from jobs.storage.cache import load_arrays, store_arrays
from jobs.storage.files import sha256_of_json

REFERENCE_ROWS = 10_000  # images whose own features are kept, as many as the field's reference files hold
_PARTS = ("pool", "spatial", "rows")
_VERSION = 1

Arrays = dict[str, np.ndarray]
"""The file of one part: mean [D] and covariance [D, D] for pool and spatial, rows [n, D] for rows."""


@dataclass(frozen=True, eq=False)
class ReferenceStatistics:
    """Of the parts that were wanted, on the main rank; every field is None on the other ranks."""

    pool: GaussianFit | None = None
    spatial: GaussianFit | None = None
    rows: Tensor | None = None
    """Pool features float32 [n <= REFERENCE_ROWS, D] of single images, evenly spread, on the CPU."""


def reference_identity(reference: Reference, cache: Path) -> str:
    """A digest of the reference's content, whatever its path: names what is computed from the reference.

    The folder `cache` remembers the digest of each file's images.
    """
    content = {"images": kept_fingerprint(reference.images, cache) if reference.images else None}
    for part, arrays in reference.statistics.items():
        content[part] = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()
    return sha256_of_json(content)


def reference_statistics(reference: Reference, identity: str, features: Features, wanted: Collection[str], group: Group,
                         batch_size: int, cache: Path, on_batch: Callable[[], None] = lambda: None) -> ReferenceStatistics:
    """`wanted` among pool, spatial and rows; `identity` is what `reference_identity` gives. All ranks call this function.

    Where the reference's file gives statistics of Inception features, samples' features of a TorchScript file are compared
    with those. Other statistics are computed from the reference's images and kept in the folder `cache`, named by the
    content of the images and the features. Raises UserError where the file's statistics are of another width.
    """
    given = given_statistics(reference, features, wanted)
    name = sha256_of_json({"images": identity, "features": features.identity, "rows": REFERENCE_ROWS, "version": _VERSION})[:16]
    files = {part: cache / f"reference-{name}-{part}.npz" for part in _PARTS if part in wanted and part not in given}
    missing = on_main(lambda: [part for part, file in files.items() if load_arrays(file) is None])
    if missing:
        if reference.images is None:
            raise UserError(f"{reference.path}: has no images (arr_0) to compute {', '.join(missing)} from")
        found = extract(reference.images.images, features, missing, group, batch_size, most_rows=REFERENCE_ROWS,
                        on_batch=on_batch)
        on_main(lambda: _store(files, missing, found, reference.path))
    if not group.is_main:
        return ReferenceStatistics()
    return _statistics(given | {part: _load(file) for part, file in files.items()}, group.device)


def given_statistics(reference: Reference, features: Features, wanted: Collection[str]) -> dict[str, Arrays]:
    """Statistics of Inception features that the reference's file gives, by part, as far as they are wanted."""
    if features.name in BUILT_IN:
        return {}
    given = {part: dict(zip(("mean", "covariance"), arrays, strict=True)) for part, arrays in reference.statistics.items()
             if part in wanted}
    for part, arrays in given.items():
        if (width := len(arrays["mean"])) != features.widths[part]:
            raise UserError(f"{reference.path}: {STATISTICS[part][0]} has {width} values, but {features.name} gives "
                            f"{features.widths[part]} for the samples")
    return given


def _store(files: dict[str, Path], parts: Sequence[str], found: Statistics, path: str) -> None:
    """Write each of `parts` into its file. Raises UserError, which names the reference's `path`, where no fit is possible."""
    for part in parts:
        statistics = getattr(found, part)
        if isinstance(statistics, Tensor):
            store_arrays(files[part], {"rows": statistics.numpy()})
            continue
        try:
            fit = statistics.fitted()
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
        store_arrays(files[part], {"mean": fit.mean.cpu().numpy(), "covariance": fit.covariance.cpu().numpy()})


def _load(file: Path) -> Arrays:
    arrays = load_arrays(file)
    if arrays is None:
        raise UserError(f"{file}: cannot be read, although it has just been written or read; evaluate again")
    return arrays


def _statistics(arrays: dict[str, Arrays], device: torch.device) -> ReferenceStatistics:
    """`arrays` by part as tensors: fits on `device`, rows on the CPU."""
    tensors = {part: {key: torch.from_numpy(value) for key, value in of_part.items()} for part, of_part in arrays.items()}
    fits = {part: GaussianFit(tensors[part]["mean"].to(device), tensors[part]["covariance"].to(device))
            for part in ("pool", "spatial") if part in tensors}
    return ReferenceStatistics(**fits, rows=tensors["rows"]["rows"] if "rows" in tensors else None)
