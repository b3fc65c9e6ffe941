"""The effect of each swept field on each metric, over groups of points (settings) that differ in this field alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.report.gaps import gap_error
from jobs.report.verdicts.points import Point, Scatter, is_seed, label, scatter_of, swept_fields
from jobs.report.verdicts.ranking import equal, leaders, metric_named, metric_names


@dataclass(frozen=True)
class Effect:
    """Means of a metric by the value of one swept field."""

    field: str
    metric: str
    higher_is_better: bool
    means: dict[str, float]
    groups: list[list[Point]]
    """Each with one point for every value, in the order of `means`."""
    undecided: list[str] | None
    """The best value, and the others whose distance from the best is within the metric's error; None: the error is unknown."""

    @property
    def leaders(self) -> list[str]:
        """The value with the best mean, or the values that share the best mean."""
        return [list(self.means)[index] for index in leaders(list(self.means.values()), self.higher_is_better)]

    @property
    def best(self) -> str | None:
        """None where several values share the best mean."""
        return self.leaders[0] if len(self.leaders) == 1 else None

    @property
    def worst(self) -> str:
        """The value with the worst mean."""
        return list(self.means)[leaders(list(self.means.values()), not self.higher_is_better)[0]]

    @property
    def all_equal(self) -> bool:
        return len(self.leaders) == len(self.means)

    @property
    def decided(self) -> bool:
        """Whether `best` is better than every other value by more than the metric's error."""
        return self.undecided == [self.best]

    @property
    def wins(self) -> int:
        """The number of groups in which the value with the best mean is the best, alone."""
        values = [[point.metrics[self.metric].value for point in group] for group in self.groups]
        return sum([list(self.means)[index] for index in leaders(row, self.higher_is_better)] == [self.best] for row in values)

    @property
    def verdict(self) -> str:
        """What the means say once the metric's error is taken into account."""
        if self.all_equal:
            return "all equal"
        if self.undecided is None:
            return f"{' and '.join(self.leaders)} ahead, error not known"
        if self.decided:
            return f"{self.best} is best"
        if len(self.undecided) == len(self.means):
            return "undecided: within the error"
        return f"undecided between {' and '.join(self.undecided)}: within the error"


def effects(points: Sequence[Point]) -> list[Effect]:
    """Return an Effect for each swept field and each metric, where points that differ in the field alone have both.

    Seeds have no effect, and whole sections no name.
    """
    fields = swept_fields([run for point in points for run in point.runs])
    settings = {key: values for key, values in fields.items() if not is_seed(key)}
    sections = {key for point in points for key, value in point.differs.items() if isinstance(value, Mapping)}
    pairs = [(field, metric) for field in settings if field not in sections for metric in metric_names(points)]
    return [effect for field, metric in pairs if (effect := _effect(points, settings, field, metric))]


def _effect(points: Sequence[Point], fields: dict[str, list[str]], field: str, metric: str) -> Effect | None:
    measured = [point for point in points if metric in point.metrics and field in point.differs]
    there = {label(point.differs[field]) for point in measured}
    values = [value for value in fields[field] if value in there]
    groups = _matched_groups(measured, list(fields), field, values)
    if not groups or len(values) < 2:
        return None
    higher_is_better = metric_named(measured, metric).higher_is_better
    table = np.array([[point.metrics[metric].value for point in group] for group in groups])
    means = table.mean(axis=0).tolist()
    return Effect(field, metric, higher_is_better, dict(zip(values, means, strict=True)), groups,
                  _undecided(values, means, groups, metric, higher_is_better, scatter_of(points, metric)))


def _matched_groups(points: Sequence[Point], fields: Sequence[str], field: str, values: list[str]) -> list[list[Point]]:
    """Return the groups of `points` that differ in `field` alone and have a point for every one of `values`, in their order."""
    groups: dict[tuple, dict[str, Point]] = {}
    for point in points:
        others = tuple(label(point.differs.get(key)) for key in fields if key != field)
        groups.setdefault(others, {})[label(point.differs[field])] = point
    return [[group[value] for value in values] for group in groups.values() if len(group) == len(values)]


def _undecided(values: list[str], means: list[float], groups: list[list[Point]], metric: str, higher_is_better: bool,
               scatter: Scatter | None) -> list[str] | None:
    """Return Effect.undecided."""
    best, undecided = leaders(means, higher_is_better)[0], []
    for index, value in enumerate(values):
        error = 0.0 if index == best else gap_error([(group[best], group[index]) for group in groups], metric, scatter)
        if error is None:
            return None
        if equal(means[index], means[best]) or abs(means[index] - means[best]) <= error:
            undecided.append(value)
    return undecided
