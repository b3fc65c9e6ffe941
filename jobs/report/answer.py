"""What a study asked, and what its numbers answer: the best runs, and the effect of each swept field on each metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.quantities import figure
from jobs.report.error import equal, gap_error, leaders, paired_gaps
from jobs.report.run import BITS, RunReport, lower_is_better

SEEDS = ("train.seed", "sample.seed", "evaluate.seed")
FEW_SAMPLES = 10_000
LISTED = 8


@dataclass(frozen=True)
class Effect:
    """Means of a metric by the value of one swept field, over groups of runs that differ in that field alone."""

    field: str
    metric: str
    means: dict[str, float]
    groups: list[list[RunReport]]
    """Each with one run for every value, in the order of `means`."""
    unsettled: list[str] | None
    """Values that the metric's error does not tell from the best, with that; None where the error is not known."""

    @property
    def leaders(self) -> list[str]:
        """The value with the best mean, or those that share it."""
        return [list(self.means)[place] for place in leaders(list(self.means.values()), self.metric)]

    @property
    def best(self) -> str | None:
        """None where several share the best mean."""
        return self.leaders[0] if len(self.leaders) == 1 else None

    @property
    def all_equal(self) -> bool:
        return len(self.leaders) == len(self.means)

    @property
    def wins(self) -> int:
        """In how many groups the value that is best on average is best, alone."""
        values = [[run.metrics[self.metric].value for run in group] for group in self.groups]
        return sum([list(self.means)[place] for place in leaders(row, self.metric)] == [self.best] for row in values)

    @property
    def verdict(self) -> str:
        """What the means say once the metric's error is taken into account."""
        if self.all_equal:
            return "all equal"
        lead = " and ".join(self.leaders)
        if self.unsettled is None:
            return f"{lead} ahead, error not known"
        if self.unsettled == [self.best]:
            return f"{self.best} is best"
        if len(self.unsettled) == len(self.means):
            return "undecided: within the error"
        return f"undecided between {' and '.join(self.unsettled)}: within the error"


def label(value: Any) -> str:
    """A swept value in a word."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return "-".join(map(label, value)) or "empty"
    return str(value) or '""'


def swept_fields(runs: Sequence[RunReport]) -> dict[str, list[str]]:
    """Dotted field -> its values, of those with more than one, seeds last; in the order in which the runs have them."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for key, value in run.differs.items():
            found.setdefault(key, []).append(label(value))
    fields = {key: list(dict.fromkeys(values)) for key, values in found.items() if len(set(values)) > 1}
    return dict(sorted(fields.items(), key=lambda item: item[0] in SEEDS))


def metric_names(runs: Sequence[RunReport]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.metrics))


def ranked(runs: Sequence[RunReport], metric: str) -> list[RunReport]:
    """The runs that have `metric`, best first."""
    sign = 1 if lower_is_better(metric) else -1
    return sorted((run for run in runs if metric in run.metrics), key=lambda run: sign * run.metrics[metric].value)


def best_runs(runs: Sequence[RunReport], metric: str) -> list[RunReport]:
    """Those to be marked: the best, and its equals; none where all are equal, so that nothing is best."""
    measured = [run for run in runs if metric in run.metrics]
    places = leaders([run.metrics[metric].value for run in measured], metric) if measured else []
    return [measured[place] for place in places] if len(places) < len(measured) else []


def effects(runs: Sequence[RunReport]) -> list[Effect]:
    """One for each swept field, seeds apart, and metric, where runs that differ in the field alone have both finished."""
    fields = swept_fields(runs)
    found = []
    for field in fields:
        for metric in metric_names(runs) if field not in SEEDS else ():
            measured = [run for run in runs if metric in run.metrics and field in run.differs]
            values = [value for value in fields[field] if any(label(run.differs[field]) == value for run in measured)]
            others = [key for key in fields if key != field]
            groups: dict[tuple, dict[str, RunReport]] = {}
            for run in measured:
                rest = tuple(label(run.differs.get(key)) for key in others)
                groups.setdefault(rest, {})[label(run.differs[field])] = run
            whole = [[group[value] for value in values] for group in groups.values() if len(group) == len(values)]
            if whole and len(values) > 1:
                table = np.array([[run.metrics[metric].value for run in group] for group in whole])
                means = table.mean(axis=0).tolist()
                found.append(Effect(field, metric, dict(zip(values, means)), whole, _unsettled(values, means, whole, metric)))
    return found


def _unsettled(values: list[str], means: list[float], groups: list[list[RunReport]], metric: str) -> list[str] | None:
    """Effect.unsettled."""
    best, unsettled = leaders(means, metric)[0], []
    for place, value in enumerate(values):
        error = 0.0 if place == best else gap_error([(group[best], group[place]) for group in groups], metric)
        if error is None:
            return None
        if equal(means[place], means[best]) or abs(means[place] - means[best]) <= error:
            unsettled.append(value)
    return unsettled


def question(runs: Sequence[RunReport]) -> str:
    """One sentence: what varies, over what data."""
    spec = next((run.spec for run in runs if run.spec), None)
    on = ""
    if spec:
        data = spec.data
        on = (f" on {data.path} ({data.image_size}x{data.image_size}, {data.channels} channel{'s' if data.channels > 1 else ''}"
              f"{f', {data.num_classes} classes' if data.class_cond else ''})")
    fields = swept_fields(runs)
    if not fields:
        if not spec:
            return f"{len(runs)} run{'s' if len(runs) != 1 else ''}."
        chain, train = spec.diffusion, spec.train
        return (f"How good is {chain.noise_schedule} noise with the {chain.loss} loss over {chain.diffusion_steps:,} diffusion "
                f"steps{on}, after {train.iterations:,} iterations of batch {train.batch_size}?")
    varied = " × ".join(f"{key} ({', '.join(values[:LISTED])}{', ...' if len(values) > LISTED else ''})"
                        for key, values in fields.items())
    return f"{len(runs)} runs vary {varied}{on}: what difference does it make?"


def answer(runs: Sequence[RunReport], found: Sequence[Effect]) -> list[str]:
    """Sentences, as far as the numbers carry them. `found`: the runs' effects."""
    names = metric_names(runs)
    if not names:
        return ["No run has been evaluated yet."]
    told = [effect for effect in found if effect.metric in names[:1] + [BITS]]  # a table has the others
    told.sort(key=lambda effect: effect.unsettled != [effect.best])  # what is decided stands first
    fields = list(dict.fromkeys(effect.field for effect in told))
    sentences = [f"{'; '.join(_verdicts(field, told) for field in fields)}."] if told else []
    sentences += [_best(ranked(runs, name), name) for name in names]
    for effect in told:
        if not effect.all_equal:
            worst = (max if lower_is_better(effect.metric) else min)(effect.means, key=effect.means.get)
            few = "only " if 2 * effect.wins <= len(effect.groups) else ""
            wins = f", in {few}{effect.wins} of which {effect.best} is best" if effect.best else ""
            over = f"averages of {len(effect.groups)} matched groups{wins}" if len(effect.groups) > 1 else "one run each"
            lead, low, high = " and ".join(effect.leaders), *map(figure, (effect.means[effect.leaders[0]], effect.means[worst]))
            sentences.append(f"{effect.field}: {effect.metric} goes from {low} with {lead} to {high} with {worst} ({over}).")
    return sentences


def cautions(runs: Sequence[RunReport]) -> list[str]:
    """What keeps the numbers from saying more."""
    notes, fields = [], swept_fields(runs)
    evaluated = [run for run in runs if run.metrics]
    if len(evaluated) < len(runs) and evaluated:
        notes.append(f"{len(evaluated)} of {len(runs)} runs have been evaluated; the others may change the picture.")
    if len(evaluated) > 1:
        notes += _scatter(evaluated) if "train.seed" in fields else [
            "One training seed per setting: how much another seed would move these numbers is not known, so small differences "
            "mean nothing."]
    if any(metric.comparable is False for run in evaluated for metric in run.metrics.values()):
        notes.append("Metrics marked “not comparable” rank these runs among each other; they cannot be set beside published "
                     "figures.")
    few = [run.samples for run in evaluated if run.samples is not None and run.samples < FEW_SAMPLES]
    if few:
        notes.append(f"FID of few samples (here {min(few):,}) is biased upwards and noisy; the papers use 50,000.")
    return notes


def _verdicts(field: str, told: Sequence[Effect]) -> str:
    """The effect of `field` in a clause; metrics of which the same can be said share it."""
    metrics: dict[str, list[str]] = {}
    for effect in told:
        if effect.field == field:
            metrics.setdefault(effect.verdict, []).append(effect.metric)
    said = [f"{said} in {' and '.join(names)}{f' ({why})' if why else ''}" for verdict, names in metrics.items()
            for said, _, why in [verdict.partition(": ")]]
    return f"{field}: {', '.join(said)}"


def _best(best_first: list[RunReport], name: str) -> str:
    first, *others = best_first
    metric, superlatives = first.metrics[name], ("lowest", "highest") if lower_is_better(name) else ("highest", "lowest")
    value = figure(metric.value) + (f" ({metric.spread_is} {metric.spread.removeprefix('± ')})" if metric.spread else "")
    if not others:
        return f"{name}: {value}, {first.name}."
    ties = [run for run in others if equal(run.metrics[name].value, metric.value)]
    if len(ties) == len(others):
        return f"{name}: all {len(best_first)} runs are equal, {figure(metric.value)}."
    if ties:
        text = f"{name}: {superlatives[0]} is {value}, in {1 + len(ties)} runs"
    else:
        gap, error = abs(others[0].metrics[name].value - metric.value), gap_error([(first, others[0])], name)
        within = " (undecided: within the error)" if error is not None and gap <= error else ""
        text = (f"{name}: {superlatives[0]} is {value}, {first.name}; next {figure(others[0].metrics[name].value)}, "
                f"{others[0].name}{within}")
        if name == BITS and (gaps := paired_gaps([(first, others[0])])) is not None:
            text += (f". Example by example the gap is {gaps.mean():.3f} ± {gaps.std(ddof=1) / len(gaps) ** 0.5:.3f} over "
                     f"{len(gaps)} examples")
    if len(others) > 1:
        text += f"; {superlatives[1]} {figure(others[-1].metrics[name].value)}, {others[-1].name}"
    return f"{text}."


def _scatter(runs: Sequence[RunReport]) -> list[str]:
    """Standard deviation between seeds, pooled over settings, for each metric."""
    others = [key for key in swept_fields(runs) if key != "train.seed"]
    notes = []
    for name in metric_names(runs):
        groups: dict[tuple, list[float]] = {}
        for run in runs:
            if name in run.metrics:
                groups.setdefault(tuple(label(run.differs.get(key)) for key in others), []).append(run.metrics[name].value)
        repeated = [np.array(values) for values in groups.values() if len(values) > 1]
        if repeated:
            pooled = (sum(((v - v.mean()) ** 2).sum() for v in repeated) / sum(len(v) - 1 for v in repeated)) ** 0.5
            notes.append(f"{name}: standard deviation between training seeds {pooled:.2g}, pooled over {len(repeated)} "
                         f"setting{'s' if len(repeated) > 1 else ''}; differences of that size mean nothing.")
    return notes
