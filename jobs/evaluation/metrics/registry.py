"""The metrics of one set of images against a reference, by their definitions in guided-diffusion's evaluator.

fid                Fréchet distance of pooled features, with what its finite number of samples means (jobs.evaluation.metrics.frechet)
sfid               the same of spatial features (Nash et al. 2021)
inception_score    jobs.evaluation.metrics.inception_score
precision_recall   precision and recall (jobs.evaluation.metrics.precision_recall)
kid                jobs.evaluation.metrics.kernel
"""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from jobs.data.sources import NEEDS
from jobs.errors import UserError
from jobs.evaluation.extraction import Statistics, extract
from jobs.evaluation.features import Features
from jobs.evaluation.metrics.frechet import GROUPS, distance_with_interval, frechet_distance
from jobs.evaluation.metrics.kernel import kernel_distance
from jobs.evaluation.metrics.precision_recall import precision_and_recall
from jobs.evaluation.reference import ReferenceStatistics
from jobs.parallel.group import Group, on_main
from jobs.parallel.interruption import Stopped

ROWS = 50_000  # samples that precision, recall and kid look at, evenly spread over those there are


def parts_needed(metrics: Collection[str], of_reference: bool = False) -> set[str]:
    return {NEEDS[metric] for metric in metrics} - ({"probabilities"} if of_reference else set())


def measure(images: np.ndarray, metrics: Collection[str], features: Features, reference: ReferenceStatistics, group: Group,
            batch_size: int, on_batch: Callable[[], None] = lambda: None, check: Callable[[], None] = lambda: None,
            interval: bool = True) -> dict[str, dict]:
    """`metrics` of uint8 [N, H, W, C] `images`, on every rank, in the form of evaluation.json.

    `on_batch` is called before each batch, `check` now and then by the main rank alone; both may raise Stopped, which
    then all ranks do. `interval`: with fid's interval and its extrapolation. Raises UserError for too few images.
    """
    found = extract(images, features, parts_needed(metrics), group, batch_size, groups=GROUPS if interval else 1,
                    most_rows=ROWS, on_batch=on_batch)

    def compute() -> dict[str, dict] | None:
        try:
            return _compute(metrics, found, reference, group, check, interval)
        except Stopped:
            return None
    result = on_main(compute)
    if result is None:
        raise Stopped
    return result


def _compute(metrics: Collection[str], ours: Statistics, theirs: ReferenceStatistics, group: Group,
             check: Callable[[], None], interval: bool) -> dict[str, dict]:
    def rows() -> tuple[Any, Any]:
        return ours.rows.to(group.device), theirs.rows.to(group.device)

    found: dict[str, dict] = {}
    for metric in NEEDS:
        if metric not in metrics:
            continue
        check()
        try:
            if metric == "fid":
                found["fid"] = distance_with_interval(ours.pool, theirs.pool) if interval else \
                    {"value": frechet_distance(ours.pool.fitted(), theirs.pool)}
            elif metric == "sfid":
                found["sfid"] = {"value": frechet_distance(ours.spatial.fitted(), theirs.spatial)}
            elif metric == "inception_score":
                found["inception_score"] = ours.probabilities.score()
            elif metric == "precision_recall":
                found |= precision_and_recall(*rows(), check)
            else:
                found["kid"] = kernel_distance(*rows())
        except ValueError as error:
            raise UserError(f"evaluate.metrics: {metric}: {error}") from error
    return found


def named(metrics: dict[str, dict], features: Features) -> dict[str, float]:
    """The values with names for a table, which say what features they rest on: "fid (pixels)"."""
    return {f"{key.replace('_', ' ')} ({features.name})": found["value"] for key, found in metrics.items()}
