"""Whether a difference between runs is larger than the error of the metric it is told by."""

from collections.abc import Sequence
from math import hypot, isclose

import numpy as np

from jobs.report.run import BITS, RunReport, lower_is_better, read_terms

Z = 1.96  # 95 % of a normal distribution lie within so many standard deviations


def equal(one: float, other: float) -> bool:
    """But for rounding, as means over the same values in another order differ by."""
    return isclose(one, other, rel_tol=1e-9)


def leaders(values: Sequence[float], metric: str) -> list[int]:
    """Places of the best of `values`, several where they are equal."""
    best = min(values) if lower_is_better(metric) else max(values)
    return [place for place, value in enumerate(values) if equal(value, best)]


def gap_error(pairs: Sequence[tuple[RunReport, RunReport]], metric: str) -> float | None:
    """Half a 95 % interval of the mean difference in `metric` over `pairs` of runs; None where no error is known.

    Bits/dim over the same examples are compared example by example, which is finer than the errors of either run.
    """
    if metric == BITS and (gaps := paired_gaps(pairs)) is not None:
        return t_quantile(len(gaps) - 1) * float(gaps.std(ddof=1)) / len(gaps) ** 0.5
    errors = [run.metrics[metric].error for pair in pairs for run in pair]
    return None if None in errors else hypot(*errors) / len(pairs)


def paired_gaps(pairs: Sequence[tuple[RunReport, RunReport]]) -> np.ndarray | None:
    """Second minus first in bits/dim for each example [N], meaned over `pairs`; None where the examples differ."""
    runs = [run for pair in pairs for run in pair]
    same = all(run.spec for run in runs) and len({(run.spec.evaluate.nll_data, run.spec.evaluate.seed) for run in runs}) == 1
    totals = [read_terms(run).get("total") for run in runs] if same else [None]
    if any(total is None for total in totals) or len({len(total) for total in totals}) > 1 or len(totals[0]) < 2:
        return None
    return np.mean(totals[1::2], axis=0) - np.mean(totals[::2], axis=0)


def t_quantile(freedom: int) -> float:
    """Of Student's distribution at 97.5 %, from the normal one's (Abramowitz & Stegun 26.7.5): 4 % low at 3, exact at many."""
    return Z + (Z ** 3 + Z) / (4 * freedom) + (5 * Z ** 5 + 16 * Z ** 3 + 3 * Z) / (96 * freedom ** 2)
