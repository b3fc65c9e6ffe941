"""What a study asked, and what its numbers answer: the best runs, and the effect of each swept field on each metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.quantities import figure
from jobs.report_run import BITS, RunReport, lower_is_better, read_terms

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

    @property
    def best(self) -> str:
        return min(self.means, key=self.means.get) if lower_is_better(self.metric) else max(self.means, key=self.means.get)

    @property
    def wins(self) -> int:
        """In how many groups the value that is best on average is best."""
        sign, place = (1 if lower_is_better(self.metric) else -1), list(self.means).index(self.best)
        return sum(min(range(len(group)), key=lambda i: sign * group[i].metrics[self.metric].value) == place
                   for group in self.groups)


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
                found.append(Effect(field, metric, dict(zip(values, table.mean(axis=0).tolist())), whole))
    return found


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
    sentences = [_best(ranked(runs, name), name) for name in names]
    for effect in found:
        if effect.metric in names[:1] + [BITS]:  # a table has the others
            worst = (max if lower_is_better(effect.metric) else min)(effect.means, key=effect.means.get)
            few = "only " if 2 * effect.wins <= len(effect.groups) else ""
            over = f"averages of {len(effect.groups)} matched groups, in {few}{effect.wins} of which {effect.best} is best" \
                if len(effect.groups) > 1 else "one run each"
            low, high = figure(effect.means[effect.best]), figure(effect.means[worst])
            sentences.append(f"{effect.field}: {effect.metric} goes from {low} with {effect.best} to {high} with {worst} ({over}).")
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


def _best(best_first: list[RunReport], name: str) -> str:
    first, *others = best_first
    metric, superlatives = first.metrics[name], ("lowest", "highest") if lower_is_better(name) else ("highest", "lowest")
    value = figure(metric.value) + (f" ({metric.spread_is} {metric.spread.removeprefix('± ')})" if metric.spread else "")
    if not others:
        return f"{name}: {value}, {first.name}."
    text = f"{name}: {superlatives[0]} is {value}, {first.name}; next {figure(others[0].metrics[name].value)}, {others[0].name}"
    if name == BITS and (gap := _paired(first, others[0])):
        text += f". Example by example the gap is {gap}"
    if len(others) > 1:
        text += f"; {superlatives[1]} {figure(others[-1].metrics[name].value)}, {others[-1].name}"
    return f"{text}."


def _paired(better: RunReport, worse: RunReport) -> str:
    """Mean difference of bits/dim over the same examples with its standard error, which is finer than that of either."""
    totals = [read_terms(run).get("total") for run in (better, worse)]
    same = better.spec and worse.spec and (better.spec.evaluate.nll_data, better.spec.evaluate.seed) == (
        worse.spec.evaluate.nll_data, worse.spec.evaluate.seed)
    if not same or any(total is None for total in totals) or len(totals[0]) != len(totals[1]) or len(totals[0]) < 2:
        return ""
    gap = totals[1] - totals[0]
    return f"{gap.mean():.3f} ± {gap.std(ddof=1) / len(gap) ** 0.5:.3f} over {len(gap)} examples"


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
