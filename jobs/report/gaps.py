"""Whether a difference between points of a sweep is larger than the error of their metric."""

from collections.abc import Sequence
from math import hypot, sqrt
from statistics import variance

import numpy as np

from jobs.kinds.diffusion.kind import BITS
from jobs.report.diffusion_facts import held_out_data
from jobs.report.evaluation import t_quantile
from jobs.report.run import RunReport, read_terms
from jobs.report.verdicts.points import Point, Scatter

Pairs = Sequence[tuple[Point, Point]]


def gap_error(pairs: Pairs, metric: str, scatter: Scatter | None) -> float | None:
    """Return half a 95 % interval of the mean difference in `metric` over `pairs` of points; None where no error is known.

    Where any setting has several seeds (`scatter`), Welch's interval: each point's variance of the mean over its seeds, by
    Welch & Satterthwaite's degrees of freedom. A point with one seed takes the pooled scatter. The interval is at least that
    of the measurements, which alone counts where no setting has several seeds: the jackknife of FID, standard errors, and for
    bits/dim over the same examples the differences example by example.
    """
    measured = _error_of_measurements(pairs, metric)
    if scatter is None:
        return measured
    known = [_variance_of_mean(point, metric, scatter) for pair in pairs for point in pair]
    total = sum(each for each, _ in known)
    if not total:
        return measured or 0.0
    freedom = total ** 2 / sum(each ** 2 / freedom for each, freedom in known)
    return max(t_quantile(freedom) * sqrt(total) / len(pairs), measured or 0.0)


def _variance_of_mean(point: Point, metric: str, scatter: Scatter) -> tuple[float, int]:
    """(variance of the point's mean, degrees of freedom)."""
    values = point.values(metric)
    if len(values) < 2:
        return scatter.variance, scatter.freedom
    return variance(values) / len(values), len(values) - 1


def _error_of_measurements(pairs: Pairs, metric: str) -> float | None:
    if metric == BITS and (gaps := paired_gaps(pairs)) is not None:
        return t_quantile(len(gaps) - 1) * float(gaps.std(ddof=1)) / len(gaps) ** 0.5
    errors = [_error_of(point, metric) for pair in pairs for point in pair]
    known = [error for error in errors if error is not None]
    return hypot(*known) / len(pairs) if len(known) == len(errors) else None


def _error_of(point: Point, metric: str) -> float | None:
    """Half the 95 % interval of the mean over the point's runs, by the error of each measurement alone."""
    errors = [run.metrics[metric].error for run in point.runs if metric in run.metrics]
    known = [error for error in errors if error is not None]
    return hypot(*known) / len(known) if len(known) == len(errors) else None


def paired_gaps(pairs: Pairs) -> np.ndarray | None:
    """Return second minus first in bits/dim of each example [N], averaged over `pairs`; None where the examples differ."""
    points = [point for pair in pairs for point in pair]
    if not _same_examples([run for point in points for run in _measured(point)]):
        return None
    totals = [total for point in points if (total := _mean_of_examples(point)) is not None]
    if len(totals) < len(points) or len({len(total) for total in totals}) > 1 or len(totals[0]) < 2:
        return None
    return np.mean(totals[1::2], axis=0) - np.mean(totals[::2], axis=0)


def _measured(point: Point) -> list[RunReport]:
    return [run for run in point.runs if BITS in run.metrics]


def _mean_of_examples(point: Point) -> np.ndarray | None:
    """Bits/dim of each example [N], the mean over the point's runs."""
    totals = [terms["total"] for run in _measured(point) if (terms := read_terms(run))]
    complete = len(totals) == len(_measured(point)) and len({len(total) for total in totals}) == 1
    return np.mean(totals, axis=0) if complete else None


def _same_examples(runs: Sequence[RunReport]) -> bool:
    specs = [run.spec for run in runs if run.spec]
    return len(specs) == len(runs) and len({(held_out_data(spec), spec.evaluate.seed) for spec in specs}) == 1
