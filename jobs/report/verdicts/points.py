"""The points of a sweep. A point is a setting: its runs differ in seeds alone, and it counts once, with mean and spread.

The standard deviation over seeds (with n - 1) holds all that a seed changes: weights, order of data, samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor, hypot, log10, sqrt
from statistics import fmean, stdev
from typing import Any

from jobs.report.evaluation import Metric, t_quantile
from jobs.report.run import RunReport

OVER_SEEDS = "standard deviation over seeds"


def is_seed(key: str) -> bool:
    """Whether the dotted `key` of a spec only draws other random numbers: train.seed, sample.seed, a kind's noise_seed."""
    last = key.rpartition(".")[2]
    return last == "seed" or last.endswith("_seed")


def label(value: Any) -> str:
    """Return a swept value in a word."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "-".join(map(label, value)) or "empty"
    return str(value) or '""'


def swept_fields(runs: Sequence[RunReport]) -> dict[str, list[str]]:
    """Return the values of each field that has more than one, by dotted key. Seeds stand last."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for key, value in run.differs.items():
            found.setdefault(key, []).append(label(value))
    fields = {key: list(dict.fromkeys(values)) for key, values in found.items() if len(set(values)) > 1}
    return dict(sorted(fields.items(), key=lambda item: is_seed(item[0])))


@dataclass(frozen=True)
class OverSeeds(Metric):
    """The mean of a metric over several seeds."""

    deviation: float = 0.0
    """Standard deviation between seeds."""

    @property
    def text(self) -> str:
        """The mean, with as many decimals as the deviation."""
        return super().text if not self.deviation else f"{self.value:,.{decimals(self.deviation)}f}"


def decimals(error: float) -> int:
    """How many decimals show an error, and the number that has it, with two digits of the error; at most 8."""
    return min(max(0, 1 - floor(log10(error))), 8) if error else 0


@dataclass(eq=False)
class Point:
    """The runs of one setting."""

    name: str
    """The run's name; of several runs, what their settings have in common."""
    runs: list[RunReport]
    metrics: dict[str, Metric]
    """By name. Of several runs the mean over those that have the metric."""

    @property
    def repeated(self) -> bool:
        """Whether there are several runs, with other seeds."""
        return len(self.runs) > 1

    @property
    def left(self) -> bool:
        return all(run.left for run in self.runs)

    @property
    def differs(self) -> dict[str, Any]:
        """The swept settings, without seeds."""
        return {key: value for key, value in self.runs[0].differs.items() if not is_seed(key)}

    def values(self, metric: str) -> list[float]:
        """The metric of each run that has it."""
        return [run.metrics[metric].value for run in self.runs if metric in run.metrics]


def single(run: RunReport) -> Point:
    """The point of one run."""
    return Point(run.name, [run], run.metrics)


def points_of(runs: Sequence[RunReport]) -> list[Point]:
    """Return the points of the sweep, in the order of their first runs."""
    fields = [key for key in swept_fields(runs) if not is_seed(key)]
    settings: dict[tuple, list[RunReport]] = {}
    for run in runs:
        settings.setdefault(tuple(label(run.differs[key]) if key in run.differs else None for key in fields), []).append(run)
    return [_point(members, fields) for members in settings.values()]


def _point(runs: list[RunReport], fields: Sequence[str]) -> Point:
    if len(runs) == 1:
        return single(runs[0])
    name = ",".join(f"{key.rpartition('.')[2]}={label(runs[0].differs[key])}" for key in fields if key in runs[0].differs)
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    return Point(name or "all seeds", runs, {each: _over_seeds(runs, each) for each in names})


def _over_seeds(runs: Sequence[RunReport], name: str) -> Metric:
    """The metric `name` as mean over the runs that have it, with the standard deviation; error: of the mean."""
    measured = [run.metrics[name] for run in runs if name in run.metrics]
    values, n = [metric.value for metric in measured], len(measured)
    count = f"(n = {n})" if n == len(runs) else f"(n = {n} of {len(runs)})"
    errors = [metric.error for metric in measured if metric.error is not None]
    of_each = hypot(*errors) / n if len(errors) == n else None
    if n == 1:
        return replace(measured[0], spread=count, spread_is="")
    deviation = stdev(values)
    facts = vars(measured[0]) | {
        "value": fmean(values), "quarters": (),
        "spread": f"± {deviation:,.{decimals(deviation)}f} {count}", "spread_is": OVER_SEEDS,
        "error": max(t_quantile(n - 1) * deviation / sqrt(n), of_each or 0.0)}
    return OverSeeds(**facts, deviation=deviation)


@dataclass(frozen=True)
class Scatter:
    """How far seeds scatter a metric, pooled over all points: what is assumed of a point with one run."""

    variance: float
    freedom: int
    points: int
    """Points with several measured runs."""


def scatter_of(points: Sequence[Point], metric: str) -> Scatter | None:
    """Return the pooled scatter; None where no point has two measured runs."""
    repeated = [values for point in points if len(values := point.values(metric)) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    squares = sum((value - fmean(values)) ** 2 for values in repeated for value in values)
    return Scatter(squares / freedom, freedom, len(repeated)) if freedom else None
