"""The section that sets families of models side by side: quality, price, convergence, cost, and what was not fair."""

from collections.abc import Mapping, Sequence

from jobs.quantities import amount, figure
from jobs.report.families.fairness import not_fair, settings_that_differ
from jobs.report.families.members import Member
from jobs.report.families.sentences import BOUNDS, SHARES, bound_of, fid_text, seconds_text
from jobs.report.families.table import Line, lines_of
from jobs.report.page.blocks import Block, Bullets, Cell, Heading, Panels, Paragraph, Row, Table
from jobs.report.page.chart import Style
from jobs.report.page.families.panels import convergence_panels, quality_panels, trade_panels
from jobs.report.study import StudyReport
from jobs.run.progress import duration
from jobs.spec.metrics import NUMBERS

NONE = "–"
A_SAMPLE = ("evaluations", "FLOP", "time")
HOW_DRAWN = "FID: bars are 95 % intervals, both axes are logarithmic; lower and further left is better."
TRADED = "Fidelity over diversity: filled is the sampling with the lowest FID; higher and further right is better."
CONVERGED = ("The main sampling of each, at the steps of sample.at; a training step counts by the median logged speed, without "
             "saving and starting.")
EXPLAINED = ("Each at its sampling with the lowest FID. Seconds are those of one process for one sample, the median over "
             "the steps of sample.at, without starting and loading; FLOP are counted. A dash: the family has no such number, "
             "or it was not measured.")


def families_blocks(study: StudyReport, drawn: Mapping[str, Style]) -> list[Block]:
    members, shown = study.members, [member for member in study.members if member.run.name in drawn]
    if not members:
        return []
    convergence = convergence_panels(shown, drawn)
    return [*_glance(members),
            Heading("Quality against the price of a sample"),
            Panels([*quality_panels(shown, drawn), *trade_panels(shown, drawn)], f"{HOW_DRAWN} {TRADED}"),
            *_titled("Convergence", Panels(convergence, CONVERGED)), *_costs(members), *_fairness(members)]


def _titled(title: str, block: Panels) -> list[Block]:
    return [Heading(title), block] if block else []


def _glance(members: Sequence[Member]) -> list[Block]:
    lines = lines_of(members)
    shares = [key for key in SHARES if any(line.way and line.way.value(key) is not None for line in lines)]
    bounds = any(bound_of(line.member) for line in lines)
    best = min((line.fid for line in lines if line.fid is not None), default=None)
    heads: Row = ["family", Cell("FID", "lower is better"), *(Cell(NUMBERS[key].label, "higher is better") for key in shares),
                  *([Cell("bits/dim", "at most")] if bounds else []), *(Cell(what, "a sample") for what in A_SAMPLE),
                  Cell("parameters", "to sample"), Cell("training", "wall time"), Cell("FLOP", "training")]
    rows: list[Row] = [[_family(line), _fid(line, best),
                        *(_share(line, key) for key in shares), *([_bound(line.member)] if bounds else []),
                        _number(line.way.evaluations if line.way else None, "{:,}"), _amount(line.sample_flops),
                        _seconds(line.sample_seconds), _number(line.parameters, "{:,}"),
                        _duration(line.training_seconds), _amount(line.training_flops)] for line in lines]
    return [Table(heads, rows, sortable=True), Paragraph(EXPLAINED, "note")]


def _family(line: Line) -> Cell:
    return Cell(line.member.name, line.member.title)


def _fid(line: Line, best: float | None) -> Cell:
    return Cell(fid_text(line.way) if line.way else NONE, value=line.fid, best=line.fid is not None and line.fid == best)


def _duration(seconds: float | None) -> Cell:
    return Cell(NONE) if seconds is None else Cell(duration(seconds), value=seconds)


def _share(line: Line, key: str) -> Cell:
    value = line.way.value(key) if line.way else None
    return Cell(NONE) if value is None else Cell(figure(value), value=value)


def _bound(member: Member) -> Cell:
    bound = bound_of(member)
    return Cell(bound.text, BOUNDS[bound.key], bound.value) if bound else Cell(NONE)


def _number(value: int | None, form: str) -> Cell:
    return Cell(NONE) if value is None else Cell(form.format(value), value=value)


def _amount(value: float | None) -> Cell:
    return Cell(NONE) if value is None else Cell(amount(value).strip(), value=value)


def _seconds(value: float | None) -> Cell:
    return Cell(NONE) if value is None else Cell(seconds_text(value), value=value)


def _costs(members: Sequence[Member]) -> list[Block]:
    """Counted and measured cost of a training step and of a sample, and how the networks grow."""
    heads: Row = ["family", Cell("parameters", "trained"), Cell("F", "a forward pass to sample"), Cell("FLOP", "a training step"),
                  Cell("time", "a training step"), Cell("FLOP/s", "in training"), "steps", Cell("images", "a step"),
                  Cell("image size × 2", "F"), Cell("num_channels × 2", "F"), Cell("image channels × 2", "F")]
    rows: list[Row] = []
    for line in lines_of(members):
        rate = line.step_flops / line.step_seconds if line.step_flops and line.step_seconds else None
        train = line.member.spec.train
        rows.append([_family(line), _number(line.trained_parameters, "{:,}"), _amount(line.forward_flops),
                     _amount(line.step_flops), _seconds(line.step_seconds), _amount(rate), _number(train.iterations, "{:,}"),
                     _number(train.batch_size, "{:,}"), *(_growth(value) for value in line.growth)])
    return [Heading("Cost of each family, counted and measured"), Table(heads, rows),
            Paragraph("F is one forward pass of the network that samples, for one image. The last columns: the factor by which F "
                      "grows when a size of the images or of the network doubles. Sampling costs F × evaluations; only for "
                      "diffusion do evaluations grow with the chain, up to T.", "note")]


def _growth(value: float | None) -> Cell:
    return Cell(NONE) if value is None else Cell(f"× {value:.2f}", value=value)


def _fairness(members: Sequence[Member]) -> list[Block]:
    differ = settings_that_differ(members)
    rows: list[Row] = [[key, *values] for key, values in differ.items()]
    return [Heading("What was not fair"), Bullets(not_fair(members)),
            Table([Cell("setting", "of train"), *(member.name for member in members)], rows)]
