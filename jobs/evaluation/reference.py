"""The reference's side of the metrics: computed once for all runs that share it, or taken from the field's files."""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jobs.data.dataset import fingerprint
from jobs.data.sources import STATISTICS, Reference
from jobs.errors import UserError
from jobs.evaluation.extraction import Statistics, extract
from jobs.evaluation.features import Features
from jobs.evaluation.metrics.frechet import GaussianFit
from jobs.parallel.group import Group, on_main
from jobs.spec.features import BUILT_IN
from jobs.storage.cache import load_arrays, store_arrays
from jobs.storage.files import sha256_of_json

ROWS = 10_000  # images whose own features are kept, as many as the field's reference files hold
_VERSION = 1


@dataclass(frozen=True, eq=False)
class ReferenceStatistics:
    """On the main rank, what was wanted; elsewhere nothing."""

    pool: GaussianFit | None = None
    spatial: GaussianFit | None = None
    rows: Tensor | None = None
    """Pool features float32 [n <= ROWS, D] of single images, evenly spread, on the CPU."""


def reference_identity(reference: Reference) -> str:
    """Of the content, not the path: names what is computed from it."""
    content = {"images": fingerprint(reference.images) if reference.images else None}
    for part, arrays in reference.statistics.items():
        content[part] = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()
    return sha256_of_json(content)


def reference_statistics(reference: Reference, identity: str, features: Features, wanted: Collection[str], group: Group,
                         batch_size: int, cache: Path, on_batch: Callable[[], None] = lambda: None) -> ReferenceStatistics:
    """`wanted` among pool, spatial and rows; `identity` is `reference_identity`'s.

    Where the reference's file gives statistics of Inception features, a TorchScript's samples are compared with those.
    The rest is kept in the folder `cache`, named by the content of the images and the features. Raises UserError where
    the file's statistics are of features of another width.
    """
    given = [part for part in reference.statistics if part in wanted and features.name not in BUILT_IN]
    for part in given:
        if (width := len(reference.statistics[part][0])) != features.widths[part]:
            raise UserError(f"{reference.path}: {STATISTICS[part][0]} has {width} values, but {features.name} gives "
                            f"{features.widths[part]} for the samples")
    name = sha256_of_json({"images": identity, "features": features.identity, "rows": ROWS, "version": _VERSION})[:16]
    files = {part: cache / f"reference-{name}-{part}.npz" for part in ("pool", "spatial", "rows")
             if part in wanted and part not in given}
    missing = on_main(lambda: [part for part, file in files.items() if load_arrays(file) is None])
    if missing:
        found = extract(reference.images.images, features, missing, group, batch_size, most_rows=ROWS, on_batch=on_batch)
        on_main(lambda: _store(files, missing, found, reference.path))
    if not group.is_main:
        return ReferenceStatistics()
    arrays = {part: dict(zip(("mean", "covariance"), reference.statistics[part])) for part in given}
    arrays |= {part: load_arrays(file) for part, file in files.items()}
    tensors = {part: {key: torch.from_numpy(value) for key, value in found.items()} for part, found in arrays.items()}
    normals = {part: GaussianFit(found["mean"].to(group.device), found["covariance"].to(group.device))
               for part, found in tensors.items() if part != "rows"}
    return ReferenceStatistics(**normals, rows=tensors["rows"]["rows"] if "rows" in tensors else None)


def _store(files: dict[str, Path], parts: list[str], found: Statistics, path: str) -> None:
    for part in parts:
        if part == "rows":
            arrays = {"rows": found.rows.numpy()}
        else:
            try:
                normal = getattr(found, part).fitted()
            except ValueError as error:
                raise UserError(f"{path}: {error}") from error
            arrays = {"mean": normal.mean.cpu().numpy(), "covariance": normal.covariance.cpu().numpy()}
        store_arrays(files[part], arrays)
