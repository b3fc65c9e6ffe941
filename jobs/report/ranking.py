"""Which runs, and which values, are best by a metric."""

from collections.abc import Sequence
from math import isclose

from jobs.report.evaluation import Metric
from jobs.report.run import RunReport


def equal(one: float, other: float) -> bool:
    """Equal but for rounding: means over the same values in another order differ in their last digits."""
    return isclose(one, other, rel_tol=1e-9)


def leaders(values: Sequence[float], higher_is_better: bool) -> list[int]:
    """Return the indices of the best of `values`, several where they are equal."""
    best = max(values) if higher_is_better else min(values)
    return [index for index, value in enumerate(values) if equal(value, best)]


def metric_names(runs: Sequence[RunReport]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.metrics))


def metric_named(runs: Sequence[RunReport], name: str) -> Metric:
    """Return the metric `name` of the first run that has it. Raises StopIteration where none has."""
    return next(run.metrics[name] for run in runs if name in run.metrics)


def ranked(runs: Sequence[RunReport], metric: str) -> list[RunReport]:
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
