"""The sections that consist of charts: effects of swept fields, training, the bound, and quality over training and compute."""

from collections import Counter
from collections.abc import Iterable

from jobs.quantities import figure
from jobs.report.page.blocks import Block, Cell, Heading, Legend, Panels, Paragraph, Row, Table
from jobs.report.page.chart import Style
from jobs.report.page.panels import bound_panel, curve_panels, effect_panels, quartile_panels, schedule_panels, training_panels
from jobs.report.study import StudyReport

WITHOUT_SEEDS = "The intervals leave out what another training seed would change."
WITH_SEEDS = "The intervals include the scatter over seeds (Welch)."


def effects_blocks(study: StudyReport) -> list[Block]:
    if not study.effects:
        return []
    several = any(len(effect.groups) > 1 for effect in study.effects)
    rows: list[Row] = [
        [effect.field, effect.metric,
         Cell(", ".join(f"{value} {figure(mean)}" for value, mean in effect.means.items()), wide=True),
         effect.best or ("all equal" if effect.all_equal else "several equal"), f"{effect.wins} of {len(effect.groups)}",
         effect.verdict]
        for effect in study.effects]
    return [Table(["field", "metric", "means by value", "best on average", Cell("best in", "matched groups"), "verdict"], rows),
            Paragraph(f"Means are over groups of {'settings' if study.repeated else 'runs'} that differ in this field alone and "
                      "have all finished. Verdicts use 95 % intervals; for bits/dim over the same examples, the interval of the "
                      f"differences. {WITH_SEEDS if study.repeated else WITHOUT_SEEDS}", "note"),
            Panels(effect_panels(study.effects), _how_drawn(several, study.repeated))]


def _how_drawn(several: bool, repeated: bool) -> str:
    bars = [] if several else ["Bars: the standard deviation over seeds."]
    return " ".join([*(["Thick with diamonds: the mean. Thin: each group that differs in this field alone."] if several else []),
                     *(["Dots: each seed.", *bars] if repeated else [])])


def training_blocks(study: StudyReport, drawn: dict[str, Style]) -> list[Block]:
    kinds = {run.name: run.known_spec.kind for run in study.shown}
    together, quartiles = training_panels(study.logs, drawn, kinds), quartile_panels(study.logs)
    if not together:
        return []
    which = "one seed of each setting" if study.repeated else "the best among them"
    some = f"Shown are {len(study.shown)} runs, {which}; the tables have all {len(study.runs)}."
    blocks: list[Block] = [Paragraph(some if len(study.shown) < len(study.runs) else ""),
                           _legend(study, study.logs, drawn), Panels(together)]
    if quartiles:
        blocks += [Heading("Loss by quarter of the chain"),
                   Panels(quartiles, "The quarter that t fell into; the first is the least noisy. Points are means over "
                                     "neighbours where the log is long. Losses of different objectives have different scales.")]
    return blocks


def bound_blocks(study: StudyReport, drawn: dict[str, Style]) -> list[Block]:
    bound = [bound_panel(study.bounds, drawn)] if study.bounds else []
    return [_legend(study, study.bounds, drawn), Panels(bound + schedule_panels(study.shown))]


def curves_blocks(study: StudyReport, drawn: dict[str, Style]) -> list[Block]:
    panels = curve_panels(study.shown, drawn)
    if not panels:
        return []
    return [_legend(study, [run.name for run in study.shown if run.curve], drawn), Panels(panels)]


def _legend(study: StudyReport, names: Iterable[str], drawn: dict[str, Style]) -> Legend:
    """How runs are drawn: a line for each setting where its seeds are drawn alike, else for each run."""
    points = {run.name: point for point in study.points for run in point.runs if len(study.points) > 1}
    counts = Counter(points[name].name for name in names if name in points)
    found = {}
    for name in names:
        point = points.get(name)
        text = f"{point.name} ({counts[point.name]} of {len(point.runs)} seeds)" if point and point.repeated else name
        found[text] = drawn[name]
    return Legend(found)
