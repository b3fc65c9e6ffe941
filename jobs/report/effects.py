"""The effect of each swept field on each metric, over groups of runs that differ in this field alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.report.gaps import gap_error
from jobs.report.ranking import equal, leaders, metric_named, metric_names
from jobs.report.run import RunReport

SEEDS = ("train.seed", "sample.seed", "evaluate.seed")


@dataclass(frozen=True)
class Effect:
    """Means of a metric by the value of one swept field."""

    field: str
    metric: str
    higher_is_better: bool
    means: dict[str, float]
    groups: list[list[RunReport]]
    """Each with one run for every value, in the order of `means`."""
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
        values = [[run.metrics[self.metric].value for run in group] for group in self.groups]
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
    return dict(sorted(fields.items(), key=lambda item: item[0] in SEEDS))


def other_settings(run: RunReport, fields: Sequence[str], field: str) -> tuple[str, ...]:
    """Return the run's values of `fields` but `field`: runs with equal ones differ in `field` alone."""
    return tuple(label(run.differs.get(key)) for key in fields if key != field)


def effects(runs: Sequence[RunReport]) -> list[Effect]:
    """Return an Effect for each swept field but seeds, and each metric, where runs that differ in the field alone have both."""
    fields = swept_fields(runs)
    pairs = [(field, metric) for field in fields if field not in SEEDS for metric in metric_names(runs)]
    return [effect for field, metric in pairs if (effect := _effect(runs, fields, field, metric))]


def _effect(runs: Sequence[RunReport], fields: dict[str, list[str]], field: str, metric: str) -> Effect | None:
    measured = [run for run in runs if metric in run.metrics and field in run.differs]
    there = {label(run.differs[field]) for run in measured}
    values = [value for value in fields[field] if value in there]
    groups = _matched_groups(measured, list(fields), field, values)
    if not groups or len(values) < 2:
        return None
    higher_is_better = metric_named(measured, metric).higher_is_better
    table = np.array([[run.metrics[metric].value for run in group] for group in groups])
    means = table.mean(axis=0).tolist()
    return Effect(field, metric, higher_is_better, dict(zip(values, means, strict=True)), groups,
                  _undecided(values, means, groups, metric, higher_is_better))


def _matched_groups(runs: Sequence[RunReport], fields: Sequence[str], field: str, values: list[str]) -> list[list[RunReport]]:
    """Return the groups of `runs` that differ in `field` alone and have a run for every one of `values`, in their order."""
    groups: dict[tuple, dict[str, RunReport]] = {}
    for run in runs:
        groups.setdefault(other_settings(run, fields, field), {})[label(run.differs[field])] = run
    return [[group[value] for value in values] for group in groups.values() if len(group) == len(values)]


def _undecided(values: list[str], means: list[float], groups: list[list[RunReport]], metric: str,
               higher_is_better: bool) -> list[str] | None:
    """Return Effect.undecided."""
    best, undecided = leaders(means, higher_is_better)[0], []
    for index, value in enumerate(values):
        error = 0.0 if index == best else gap_error([(group[best], group[index]) for group in groups], metric)
        if error is None:
            return None
        if equal(means[index], means[best]) or abs(means[index] - means[best]) <= error:
            undecided.append(value)
    return undecided
