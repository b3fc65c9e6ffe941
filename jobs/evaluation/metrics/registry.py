"""The metrics of one set of images against a reference, by guided-diffusion's definitions (KID: by its authors').

`jobs.spec.metrics.METRICS` lists the metrics. The module of a metric offers one function,

    compute(ours, theirs, check) -> {key: {"value": float, ...}}

`ours` is the part of the samples' statistics that the metric needs: Moments for pool and spatial, ClassSums for
probabilities, a tensor [N, D] on the group's device for rows, LabelHits for labels. `theirs` is the reference's part: a
GaussianFit for pool and spatial, a tensor [M, D] for rows, None where the metric does not compare. `compute` calls `check`
now and then in long work. It raises ValueError for too few images, and lets Stopped of `check` pass.
"""

import math
from collections.abc import Callable, Collection
from importlib import import_module

import numpy as np
from torch import Tensor

from jobs.errors import UserError
from jobs.evaluation.extraction import Statistics, extract
from jobs.evaluation.features import Features
from jobs.evaluation.metrics.fid import GROUPS
from jobs.evaluation.reference import ReferenceStatistics
from jobs.parallel.group import Group, on_main
from jobs.parallel.interruption import Stopped
from jobs.spec.metrics import METRICS, NUMBERS, labelled

SAMPLE_ROWS = 50_000  # samples whose own features precision, recall and kid take, evenly spread over all samples


def parts_needed(metrics: Collection[str], of_reference: bool = False) -> set[str]:
    """The parts of the statistics that `metrics` need, of the samples or of the reference."""
    return {METRICS[metric].needs for metric in metrics if METRICS[metric].compares or not of_reference}


def measure(images: np.ndarray, metrics: Collection[str], features: Features, reference: ReferenceStatistics, group: Group,
            batch_size: int, on_batch: Callable[[], None] = lambda: None, check: Callable[[], None] = lambda: None,
            labels: np.ndarray | None = None) -> dict[str, dict]:
    """`metrics` of uint8 [N, H, W, C] `images`, on every rank, in the form of evaluation.json.

    `on_batch` is called before each batch, `check` now and then by the main rank alone. Where one of them raises Stopped,
    all ranks raise Stopped. `labels`: int64 [N], the class that each image was asked for. The notes name samples without
    content. Raises UserError where all are, for too few images, for labels that are missing or that the features do not
    know, and for a metric that is not finite.
    """
    check_labels(labels, metrics, features)
    found = extract(images, features, parts_needed(metrics), group, batch_size, groups=GROUPS, most_rows=SAMPLE_ROWS,
                    labels=labels, on_batch=on_batch)
    if found.flat == len(images):
        raise UserError(f"in each of the {len(images):,} samples every pixel has the same value, as where a network gave NaN: "
                        "nothing to measure; sample anew")

    def compute() -> dict[str, dict] | None:
        try:
            return _compute(metrics, found, reference, group, check)
        except Stopped:
            return None
    result = on_main(compute)
    if result is None:
        raise Stopped
    if found.flat:
        warning = f"{found.flat:,} of {len(images):,} samples have the same value in every pixel, as where a network gave NaN"
        for detail in result.values():
            detail["note"] = "; ".join(filter(None, [detail.get("note"), warning]))
    return result


def check_labels(labels: np.ndarray | None, metrics: Collection[str], features: Features) -> None:
    """Raise UserError where one of `metrics` needs labels [N] that are missing, or that are no outputs of `features`."""
    for metric in labelled(metrics):
        if labels is None:
            raise UserError(f"metrics: {metric} needs samples with labels (/labels in samples.h5, arr_1 in an .npz), and these "
                            "have none")
        outputs = features.widths["probabilities"]
        if len(labels) and not 0 <= labels.min() <= labels.max() < outputs:
            raise UserError(f"metrics: {metric}: labels go from {labels.min()} to {labels.max()}, but {features.name} knows "
                            f"classes 0 to {outputs - 1}")


def _compute(metrics: Collection[str], ours: Statistics, theirs: ReferenceStatistics, group: Group,
             check: Callable[[], None]) -> dict[str, dict]:
    found: dict[str, dict] = {}
    for name, metric in METRICS.items():
        if name not in metrics:
            continue
        check()
        parts = [getattr(ours, metric.needs), getattr(theirs, metric.needs) if metric.compares else None]
        parts = [part.to(group.device) if isinstance(part, Tensor) else part for part in parts]
        try:
            found |= import_module(metric.module).compute(*parts, check)
        except ValueError as error:
            raise UserError(f"evaluate.metrics: {name}: {error}") from error
        for key in metric.numbers:
            for what, value in found[key].items():
                if isinstance(value, float) and not math.isfinite(value):
                    what = key if what == "value" else what
                    raise UserError(f"evaluate.metrics: {name}: {what} is {value}, which ranks nothing")
    return found


def named(metrics: dict[str, dict], features: Features) -> dict[str, float]:
    """The values by their names in tables, which name the features too: "fid (pixels)"."""
    return {f"{NUMBERS[key].label} ({features.name})": found["value"] for key, found in metrics.items()}
