"""The section on samplings: which is the cheapest that is as good, charts over evaluations and guidance, a table of all."""

from collections.abc import Sequence
from itertools import groupby

from jobs.quantities import figure
from jobs.report.page.blocks import Block, Bullets, Cell, Heading, Panels, Row, Table
from jobs.report.page.samplings_panels import evaluations_panels, guidance_panels, metrics_of, title_of, trade_off_panels
from jobs.report.samplings.comparisons import Comparison
from jobs.report.samplings.entries import PUBLISHED_SAMPLES
from jobs.report.samplings.sentences import noise, rejections, time_for, unknown, verdicts
from jobs.report.samplings.ways import Way
from jobs.report.study import StudyReport
from jobs.report.verdicts.points import decimals
from jobs.spec.metrics import HIGHER_IS_BETTER

ROWS = 400  # of the table; report.csv has all samplings
SAID = 24  # sentences
HOW_DRAWN = ("Bars: 95 % intervals. Star and dashed line: the full chain. In FID, a sampling is as good as the full chain if its "
             "bar reaches the dashed line, or if the sampling lies below.")
ALONG = "Each line goes along the scale, away from the ring: the sampling without guidance."
RING = "Ring: the sampling without guidance. Bars: 95 % intervals. Scales of different kinds of guidance do not compare."


def samplings_blocks(study: StudyReport) -> list[Block]:
    if not any(len(members) > 1 for members in study.ways.values()):
        return []
    sentences = [*verdicts(study.comparisons), *rejections(study.comparisons), *unknown(study.comparisons)]
    more = [f"... and {len(sentences) - SAID} more sentences; report.json has all verdicts."] if len(sentences) > SAID else []
    over = evaluations_panels(study.comparisons)
    blocks: list[Block] = [Bullets([*sentences[:SAID], *more]), Panels(over, HOW_DRAWN if over else "")]
    for kind, lines in groupby(study.guided, key=lambda line: line.kind):
        panels = guidance_panels(list(lines))
        blocks += [Heading(f"Guidance: {kind}"), Panels(panels, RING)]
    if len(study.guided) > 1 and (traded := trade_off_panels(study.guided)):
        blocks += [Heading("Kinds of guidance beside each other"), Panels(traded, ALONG)]
    return [*blocks, Heading("All samplings"), _table(study), Bullets(noise(study.comparisons), "note")]


def _table(study: StudyReport) -> Table:
    """A row for each way to sample; the cheapest that passes stands out."""
    ways = [(training, way) for training, members in study.ways.items() for way in members][:ROWS]
    metrics = metrics_of(way for _, way in ways)
    compared = {id(way): comparison for comparison in study.comparisons for way in comparison.ways}
    trained = len(study.ways) > 1
    samples = {entry.run.samples for _, way in ways for entry in way.entries}
    heads: Row = ["sampling", *(["training"] if trained else []), Cell("evaluations", "of networks, a sample"),
                  *(_head(key, [way for _, way in ways]) for key in metrics), Cell("beside the full chain", "by FID"),
                  Cell("wall time", f"{samples.pop():,} samples" if len(samples) == 1 and None not in samples else "its samples"),
                  Cell("wall time", f"{PUBLISHED_SAMPLES:,} samples")]
    rows: list[Row] = []
    marked: list[int] = []
    for number, (training, way) in enumerate(ways):
        comparison = compared.get(id(way))
        rows.append([Cell(way.name, _details(way)), *([training] if trained else []),
                     Cell(f"{way.evaluations:,}", value=way.evaluations), *(_number(way, key) for key in metrics),
                     Cell(_verdict(way, comparison)), Cell(time_for(way), value=way.seconds),
                     Cell(time_for(way, PUBLISHED_SAMPLES), value=way.seconds)])
        if comparison and way is comparison.cheapest:
            marked.append(number)
    return Table(heads, rows, sortable=True, marked=marked)


def _head(metric: str, ways: Sequence[Way]) -> Cell:
    """The name of a metric, with its features in the second line: columns stay narrow."""
    name, _, features = title_of(metric, ways).partition(" (")
    better = "higher is better" if metric in HIGHER_IS_BETTER else "lower is better"
    return Cell(name, ", ".join(filter(None, [features.removesuffix(")"), better])))


def _details(way: Way) -> str:
    point, runs = way.first.point, len(way.entries)
    chain = f"{point.sampler}, {point.sampling_steps:,} steps" if point.sampler else ""
    return "; ".join(filter(None, [chain, f"mean of {runs} runs" if runs > 1 else ""]))


def _number(way: Way, metric: str) -> Cell:
    value, error = way.value(metric), way.error(metric)
    if value is None:
        return Cell("–")
    if not error:
        return Cell(figure(value), value=value)
    return Cell(f"{value:,.{decimals(error)}f}", f"± {error:,.{decimals(error)}f}", value)


def _verdict(way: Way, comparison: Comparison | None) -> str:
    """How the way stands to the full chain of its comparison."""
    if comparison is None or comparison.full is None:
        return ""
    if way is comparison.full:
        return "the full chain"
    passes = comparison.passes(way)
    if passes is None:
        gap = comparison.gap(way)
        return "" if gap is None else "no interval" if gap[1] is None else "undecided"
    return ("the cheapest as good" if way is comparison.cheapest else "as good") if passes else "rejected"
