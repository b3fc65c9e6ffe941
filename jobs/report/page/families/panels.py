"""The charts that set families side by side: quality against the price of a sample, fidelity and diversity, convergence."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from markupsafe import Markup

from jobs.report.families.members import Member
from jobs.report.page.chart import Series, Style, panel
from jobs.report.page.samplings_panels import title_of
from jobs.report.samplings.ways import FID, Way

DASHES_OF = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
"""By sampler of one member."""


def quality_panels(members: Sequence[Member], drawn: Mapping[str, Style]) -> list[Markup]:
    """FID over evaluations, and over measured seconds, of a sample."""
    ways = [way for member in members for way in member.ways]
    title = title_of(FID, ways)
    over: list[tuple[str, str, Callable[[Way], float | None]]] = [
        ("network evaluations", "network evaluations for one sample", lambda way: way.evaluations),
        ("the time of a sample", "seconds of one process for one sample", lambda way: way.process_seconds)]
    panels = []
    for what, x_label, x_of in over:
        series = [one for member in members for one in _lines(member, drawn[member.run.name], x_of)]
        if len({x for one in series for x in one.x}) > 1:
            panels.append(panel(f"{title} over {what}", x_label, title, series, "xy"))
    return panels


def _lines(member: Member, style: Style, x_of: Callable[[Way], float | None]) -> list[Series]:
    """A line for each sampler of a member, with bars of 95 %."""
    families: dict[str, list[tuple[float, float, float]]] = {}
    for way in member.ways:
        x, y = x_of(way), way.value(FID)
        if x is not None and x > 0 and y is not None:
            families.setdefault(way.family, []).append((x, y, way.error(FID) or 0.0))
    series = []
    for number, (family, points) in enumerate(families.items()):
        points.sort()
        name = member.name if not family or len(families) == 1 else f"{member.name}, {family}"
        series.append(Series([x for x, _, _ in points], [y for _, y, _ in points],
                             replace(style, dashes=DASHES_OF[number % len(DASHES_OF)], hollow=number > 0), name,
                             [error for _, _, error in points] if any(error for _, _, error in points) else ()))
    return series


def trade_panels(members: Sequence[Member], drawn: Mapping[str, Style]) -> list[Markup]:
    """Precision over recall, a point for each way to sample, the best by FID filled."""
    ways = [way for member in members for way in member.ways]
    series = []
    for member in members:
        style = replace(drawn[member.run.name], dashes="none", size=6)
        points = [(recall, precision, way is member.best) for way in member.ways
                  if (recall := way.value("recall")) is not None and (precision := way.value("precision")) is not None]
        for best in (True, False):
            there = [(recall, precision) for recall, precision, is_best in points if is_best == best]
            if there:
                series.append(Series([recall for recall, _ in there], [precision for _, precision in there],
                                     replace(style, hollow=not best), member.name if best else ""))
    if not series:
        return []
    return [panel("Fidelity over diversity", title_of("recall", ways), title_of("precision", ways), series)]


def convergence_panels(members: Sequence[Member], drawn: Mapping[str, Style]) -> list[Markup]:
    """FID of the main sampling over training time, where it was measured at several steps of training."""
    series = []
    for member in members:
        run, seconds = member.run, member.step_seconds
        points = sorted((point.step, point.metrics[FID], point.error(FID) or 0.0) for point in run.curve
                        if FID in point.metrics and point.samples_like(run.curve[0]))
        if seconds is not None and len(points) > 1:
            series.append(Series([step * seconds for step, _, _ in points], [value for _, value, _ in points],
                                 drawn[run.name], member.name,
                                 [error for _, _, error in points] if any(error for _, _, error in points) else ()))
    if not series:
        return []
    title = title_of(FID, [way for member in members for way in member.ways])
    return [panel(f"{title} over training time", "seconds of training, by the median speed", title, series, "y")]
