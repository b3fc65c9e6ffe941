"""Which runs, and which values, are best by a metric."""

from collections.abc import Sequence
from math import isclose
from typing import Protocol, TypeVar

from jobs.report.evaluation import Metric
from jobs.report.gaps import gap_error
from jobs.report.run import RunReport
from jobs.report.verdicts.points import Point, scatter_of
from jobs.spec.metrics import NUMBERS


class Measured(Protocol):
    """A run, or a point of the sweep."""

    metrics: dict[str, Metric]


M = TypeVar("M", bound=Measured)


def equal(one: float, other: float) -> bool:
    """Equal but for rounding: means over the same values in another order differ in their last digits."""
    return isclose(one, other, rel_tol=1e-9)


def leaders(values: Sequence[float], higher_is_better: bool) -> list[int]:
    """Return the indices of the best of `values`, several where they are equal."""
    best = max(values) if higher_is_better else min(values)
    return [index for index, value in enumerate(values) if equal(value, best)]


def metric_names(runs: Sequence[Measured]) -> list[str]:
    """Return the names of all metrics: first those of samples, then the kinds' own. Runs are compared by metrics that both have,
    so a classifier is never compared with a FID."""
    found = {name: metric for run in runs for name, metric in run.metrics.items()}
    return sorted(found, key=lambda name: found[name].key not in NUMBERS)


def metric_named(runs: Sequence[Measured], name: str) -> Metric:
    """Return the metric `name` of the first run that has it. Raises StopIteration where none has."""
    return next(run.metrics[name] for run in runs if name in run.metrics)


def ranked(runs: Sequence[M], metric: str) -> list[M]:
    """Return the runs that have `metric`, best first."""
    measured = [run for run in runs if metric in run.metrics]
    downwards = bool(measured) and measured[0].metrics[metric].higher_is_better
    return sorted(measured, key=lambda run: (-1 if downwards else 1) * run.metrics[metric].value)


def left_out(runs: Sequence[RunReport]) -> list[str]:
    """Return the runs that failed or have numbers that rank nothing, each with the reason: "lr=1 (train failed: diverged)"."""
    found = []
    for run in runs:
        reasons = run.left_out or ([f"{run.failure.stage} failed: {run.failure.kind}"] if run.failure and not run.metrics else [])
        if reasons:
            found.append(f"{run.name} ({', '.join(reasons)})")
    return found


def best_runs(runs: Sequence[RunReport], metric: str) -> list[RunReport]:
    """Return the runs to mark: the best of the sweep and its equals, or none where all are equal."""
    best_first = ranked([run for run in runs if not run.left], metric)
    best = [run for run in best_first if equal(run.metrics[metric].value, best_first[0].metrics[metric].value)]
    return best if len(best) < len(best_first) else []


def best_points(points: Sequence[Point], metric: str) -> list[Point]:
    """Return the points to mark: the best, and those that the errors cannot tell from it; none where that is all of them."""
    best_first, scatter = ranked([point for point in points if not point.left], metric), scatter_of(points, metric)
    if not best_first:
        return []
    best = best_first[0]
    found = [point for point in best_first if point is best or not told_apart(
        point.metrics[metric].value - best.metrics[metric].value, gap_error([(best, point)], metric, scatter))]
    return found if len(found) < len(best_first) else []


def told_apart(gap: float, error: float | None) -> bool:
    """Whether a difference is larger than half its 95 % interval; where that is not known, whether there is any."""
    return not isclose(gap, 0, abs_tol=1e-12) if error is None else abs(gap) > error
