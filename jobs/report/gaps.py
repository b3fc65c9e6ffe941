"""Whether a difference between runs is larger than the error of their metric."""

from collections.abc import Sequence
from math import hypot

import numpy as np

from jobs.kinds.diffusion.kind import BITS
from jobs.report.diffusion_facts import held_out_data
from jobs.report.evaluation import Z
from jobs.report.run import RunReport, read_terms


def gap_error(pairs: Sequence[tuple[RunReport, RunReport]], metric: str) -> float | None:
    """Return half a 95 % interval of the mean difference in `metric` over `pairs` of runs; None where no error is known.

    Bits/dim over the same examples are compared example by example, which is finer than the errors of either run.
    """
    if metric == BITS and (gaps := paired_gaps(pairs)) is not None:
        return t_quantile(len(gaps) - 1) * float(gaps.std(ddof=1)) / len(gaps) ** 0.5
    errors = [run.metrics[metric].error for pair in pairs for run in pair]
    known = [error for error in errors if error is not None]
    return hypot(*known) / len(pairs) if len(known) == len(errors) else None


def paired_gaps(pairs: Sequence[tuple[RunReport, RunReport]]) -> np.ndarray | None:
    """Return second minus first in bits/dim of each example [N], averaged over `pairs`; None where the examples differ."""
    runs = [run for pair in pairs for run in pair]
    if not _same_examples(runs):
        return None
    totals = [terms["total"] for run in runs if (terms := read_terms(run))]
    if len(totals) < len(runs) or len({len(total) for total in totals}) > 1 or len(totals[0]) < 2:
        return None
    return np.mean(totals[1::2], axis=0) - np.mean(totals[::2], axis=0)


def _same_examples(runs: Sequence[RunReport]) -> bool:
    specs = [run.spec for run in runs if run.spec]
    return len(specs) == len(runs) and len({(held_out_data(spec), spec.evaluate.seed) for spec in specs}) == 1


def t_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's distribution with `freedom` degrees of freedom.

    Abramowitz & Stegun 26.7.5, from the normal distribution's: 4 % low at 3 degrees, exact at many.
    """
    return Z + (Z ** 3 + Z) / (4 * freedom) + (5 * Z ** 5 + 16 * Z ** 3 + 3 * Z) / (96 * freedom ** 2)
