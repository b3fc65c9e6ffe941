"""A study's question and its answer, in sentences, and the reasons why the numbers do not say more."""

from collections.abc import Iterator, Sequence

from jobs.kinds.diffusion.kind import BITS
from jobs.quantities import figure
from jobs.report.diffusion_facts import setting_in_words
from jobs.report.evaluation import Metric
from jobs.report.gaps import gap_error, paired_gaps
from jobs.report.run import RunReport
from jobs.report.verdicts.effects import Effect
from jobs.report.verdicts.points import OVER_SEEDS, Point, Scatter, decimals, is_seed, scatter_of, swept_fields
from jobs.report.verdicts.ranking import equal, left_out, metric_names, ranked
from jobs.spec.kinds import draws_samples
from jobs.spec.sections import Data, Spec

FEW_SAMPLES = 10_000
LISTED = 8  # values or runs that a sentence lists; "..." stands for more


def question(points: Sequence[Point]) -> str:
    """One sentence: what varies between the points of the sweep, with how many seeds, and on which data."""
    runs = [run for point in points for run in point.runs]
    spec = next((run.spec for run in runs if run.spec), None)
    fields = swept_fields(runs)
    if not fields:
        return _question_of_one_setting(spec) if spec else f"{counted(len(runs), 'run')}."
    seeds = {key: values for key, values in fields.items() if is_seed(key)}
    if seeds and any(point.repeated for point in points):
        settings, by = {key: values for key, values in fields.items() if key not in seeds}, _listed(seeds)
        if not settings:
            return f"{len(runs)} runs of one setting vary {by}: how far do their results scatter?"
        return (f"{len(points)} settings, {len(runs)} runs with seeds {by}, vary {_listed(settings)}"
                f"{_on(spec.data) if spec else ''}: what difference does it make?")
    return f"{len(runs)} runs vary {_listed(fields)}{_on(spec.data) if spec else ''}: what difference does it make?"


def _listed(fields: dict[str, list[str]]) -> str:
    return " × ".join(f"{key} ({', '.join(values[:LISTED])}{', ...' if len(values) > LISTED else ''})"
                      for key, values in fields.items())


def _question_of_one_setting(spec: Spec) -> str:
    setting = setting_in_words(spec) or "this model"
    return (f"How good is {setting}{_on(spec.data)}, after {spec.train.iterations:,} iterations of batch "
            f"{spec.train.batch_size}?")


def _on(data: Data) -> str:
    classes = f", {data.num_classes} classes" if data.class_cond else ""
    return f" on {data.path} ({data.image_size}x{data.image_size}, {counted(data.channels, 'channel')}{classes})"


def counted(number: int, noun: str) -> str:
    """Return "1 run", "2 runs"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def answer(points: Sequence[Point], found: Sequence[Effect]) -> list[str]:
    """Sentences that the numbers support. `found`: the effects of the points."""
    names = metric_names(points)
    if not names:
        return ["No run has been evaluated yet."]
    shown = [effect for effect in found if effect.metric in names[:1] + [BITS]]  # a table has the others
    shown.sort(key=lambda effect: not effect.decided)  # decided effects stand first
    fields = list(dict.fromkeys(effect.field for effect in shown))
    verdicts = [f"{'; '.join(_verdicts(field, shown) for field in fields)}."] if shown else []
    return [*verdicts, *(_best(ranked(points, name), name, scatter_of(points, name)) for name in names),
            *(_range(effect) for effect in shown if not effect.all_equal)]


def _verdicts(field: str, shown: Sequence[Effect]) -> str:
    """The effect of `field` in a clause. Metrics with equal verdicts share a phrase."""
    metrics: dict[str, list[str]] = {}
    for effect in shown:
        if effect.field == field:
            metrics.setdefault(effect.verdict, []).append(effect.metric)
    phrases = [f"{verdict} in {' and '.join(names)}{f' ({why})' if why else ''}" for said, names in metrics.items()
               for verdict, _, why in [said.partition(": ")]]
    return f"{field}: {', '.join(phrases)}"


def _range(effect: Effect) -> str:
    """How far the means of an effect lie apart."""
    few = "only " if 2 * effect.wins <= len(effect.groups) else ""
    wins = f", in {few}{effect.wins} of which {effect.best} is best" if effect.best else ""
    repeated = any(point.repeated for point in effect.groups[0])
    over = "means over seeds" if repeated else "one run each"
    if len(effect.groups) > 1:
        over = f"averages of {len(effect.groups)} matched groups{wins}"
    best, worst = figure(effect.means[effect.leaders[0]]), figure(effect.means[effect.worst])
    return (f"{effect.field}: {effect.metric} goes from {best} with {' and '.join(effect.leaders)} to {worst} with "
            f"{effect.worst} ({over}).")


def _best(best_first: list[Point], name: str, scatter: Scatter | None) -> str:
    """Which point is best by the metric `name`, and by how much."""
    first, *others = best_first
    metric = first.metrics[name]
    if not others:
        return f"{name}: {_with_spread(metric)}, {first.name}."
    best, worst = ("highest", "lowest") if metric.higher_is_better else ("lowest", "highest")
    mean = " mean" if scatter else ""
    ties = sum(equal(point.metrics[name].value, metric.value) for point in others)
    if ties == len(others):
        return f"{name}: all {len(best_first)} {'settings' if scatter else 'runs'} are equal, {metric.text}."
    lead = f"in {1 + ties} {'settings' if scatter else 'runs'}" if ties else (
        f"{first.name}; {_runner_up(first, others[0], name, scatter)}")
    last = f"; {worst}{mean} {others[-1].metrics[name].text}, {others[-1].name}" if len(others) > 1 else ""
    return f"{name}: {best}{mean} is {_with_spread(metric)}, {lead}{last}."


def _with_spread(metric: Metric) -> str:
    if metric.spread_is in (OVER_SEEDS, ""):
        return f"{metric.text} {metric.spread}".strip()
    return f"{figure(metric.value)} ({metric.spread_is} {metric.spread.removeprefix('± ')})"


def _runner_up(first: Point, second: Point, name: str, scatter: Scatter | None) -> str:
    """The second best point, and how certain its distance from the first is."""
    one, other = first.metrics[name].value, second.metrics[name].value
    error = gap_error([(first, second)], name, scatter)
    within = " (undecided: within the error)" if error is not None and abs(other - one) <= error else ""
    if scatter and error is not None:
        apart = "they cannot be told apart: " if within else ""
        return f"next {_with_spread(second.metrics[name])}, {second.name} ({apart}{_gap(abs(other - one), error)})"
    text = f"next {figure(other)}, {second.name}{within}"
    if name == BITS and (gaps := paired_gaps([(first, second)])) is not None:
        text += (f". Example by example the gap is {gaps.mean():.3f} ± {gaps.std(ddof=1) / len(gaps) ** 0.5:.3f} over "
                 f"{len(gaps)} examples")
    return text


def _gap(gap: float, error: float) -> str:
    return f"gap {gap:,.{decimals(error)}f} ± {error:,.{decimals(error)}f}" if error else f"gap {figure(gap)}"


def cautions(points: Sequence[Point]) -> list[str]:
    """The reasons why the numbers do not say more."""
    runs = [run for point in points for run in point.runs]
    return list(_cautions(points, runs, [run for run in runs if run.metrics]))


def _cautions(points: Sequence[Point], runs: Sequence[RunReport], evaluated: list[RunReport]) -> Iterator[str]:
    if 0 < len(evaluated) < len(runs):
        yield f"{len(evaluated)} of {len(runs)} runs have been evaluated; the others may change the picture."
    if lacking := left_out(runs):
        more = [f"and {len(lacking) - LISTED} more"] if len(lacking) > LISTED else []
        yield f"Left out of the comparison: {'; '.join([*lacking[:LISTED], *more])}."
    yield from _scatter(points)
    if len(evaluated) > 1 and "train.seed" not in swept_fields(runs):
        yield ("Each setting has one training seed. Another seed would change these numbers by an unknown amount, so small "
               "differences mean nothing.")
    if any(metric.comparable is False for run in evaluated for metric in run.metrics.values()):
        yield "Metrics marked “not comparable” rank these runs. Do not compare them with published figures."
    references = dict.fromkeys(run.spec.evaluate.reference for run in evaluated if run.spec and draws_samples(run.spec))
    if len(references) > 1:
        yield (f"The samples are compared with different images ({', '.join(map(str, references))}): their metrics rank only "
               "runs that are compared with the same ones.")
    few = [run.samples for run in evaluated if run.samples is not None and run.samples < FEW_SAMPLES]
    if few:
        yield f"FID of few samples (here {min(few):,}) is biased upwards and noisy; the papers use 50,000."


def _scatter(points: Sequence[Point]) -> Iterator[str]:
    """The standard deviation between seeds of each metric, pooled over settings."""
    known = {name: scatter for name in metric_names(points) if (scatter := scatter_of(points, name))}
    if known:
        yield ("Of a setting with several seeds: the mean ± the standard deviation between its n runs. Gaps have 95 % intervals "
               "(Welch); a setting with a single seed is taken to scatter like the others.")
    seeds = [key for key in swept_fields([run for point in points for run in point.runs]) if is_seed(key)]
    which = "training seeds" if seeds == ["train.seed"] else "seeds"
    for name, scatter in known.items():
        if not scatter.variance:
            continue
        yield (f"{name}: standard deviation between {which} {scatter.variance ** 0.5:.2g}, pooled over "
               f"{counted(scatter.points, 'setting')}; differences of this size mean nothing.")
