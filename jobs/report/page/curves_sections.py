"""The sections that consist of charts: effects of swept fields, training, the bound, and quality over steps and compute."""

from jobs.quantities import figure
from jobs.report.page.blocks import Block, Cell, Heading, Legend, Panels, Paragraph, Row, Table
from jobs.report.page.chart import Style
from jobs.report.page.panels import bound_panel, curve_panels, effect_panels, quartile_panels, schedule_panels, training_panels
from jobs.report.study import StudyReport

HOLLOW = "Hollow markers: DDIM. Filled: ancestral sampling."


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
            Paragraph("Means are over groups of runs that differ in this field alone and have all finished. Verdicts use 95 % "
                      "intervals; for bits/dim over the same examples, the interval of the differences. The intervals leave out "
                      "what another training seed would change.", "note"),
            Panels(effect_panels(study.effects),
                   "Thick with diamonds: the mean. Thin: each group of runs that differ in this field alone." if several else "")]


def training_blocks(study: StudyReport, drawn: dict[str, Style]) -> list[Block]:
    together, quartiles = training_panels(study.logs, drawn), quartile_panels(study.logs)
    if not together:
        return []
    some = f"Shown are {len(study.shown)} runs, the best among them; the tables have all {len(study.runs)}."
    blocks: list[Block] = [Paragraph(some if len(study.shown) < len(study.runs) else ""),
                           Legend({name: drawn[name] for name in study.logs}), Panels(together)]
    if quartiles:
        blocks += [Heading("Loss by quarter of the chain"),
                   Panels(quartiles, "The quarter that t fell into; the first is the least noisy. Points are means over "
                                     "neighbours where the log is long. Losses of different objectives have different scales.")]
    return blocks


def bound_blocks(study: StudyReport, drawn: dict[str, Style]) -> list[Block]:
    bound = [bound_panel(study.bounds, drawn)] if study.bounds else []
    return [Legend({name: drawn[name] for name in study.bounds}), Panels(bound + schedule_panels(study.shown))]


def curves_blocks(study: StudyReport, drawn: dict[str, Style]) -> list[Block]:
    panels = curve_panels(study.shown, drawn)
    if not panels:
        return []
    samplers = any(point.sampler for run in study.shown for point in run.curve)
    return [Legend({run.name: drawn[run.name] for run in study.shown if run.curve}),
            Panels(panels, HOLLOW if samplers else "")]
