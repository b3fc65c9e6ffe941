"""The charts of the samplings: metrics over network evaluations, and over the scale of guidance."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from jobs.report.diffusion_facts import UNGUIDED
from jobs.report.page.chart import COLOURS, DASHES, FAINT, INK, MARKERS, Series, Style, panel
from jobs.report.samplings.comparisons import Comparison
from jobs.report.samplings.guided import TRADED, Guided
from jobs.report.samplings.ways import FID, Way
from jobs.spec.metrics import NUMBERS

DRAWN = 8  # comparisons, and lines over guidance scale of one kind; the tables have all


def metrics_of(ways: Iterable[Way]) -> list[str]:
    """Return the keys of the metrics that any of `ways` has, those of the table of metrics first."""
    there = dict.fromkeys(key for way in ways for entry in way.entries for key in entry.point.metrics)
    return [*(key for key in NUMBERS if key in there), *(key for key in there if key not in NUMBERS)]


def title_of(key: str, ways: Iterable[Way]) -> str:
    """Return the name of a metric in tables, with the features that it rests on: "fid (pixels)"."""
    names = (name for way in ways for entry in way.entries for name, metric in entry.run.metrics.items() if metric.key == key)
    return next(names, NUMBERS[key].label if key in NUMBERS else key)


def evaluations_panels(found: Sequence[Comparison]) -> list[Markup]:
    """Each metric over the network evaluations of a sample: every metric of a single comparison, FID of several."""
    panels = []
    for comparison in found[:DRAWN]:
        metrics = metrics_of(comparison.ways)
        for metric in metrics if len(found) == 1 else [key for key in metrics if key == FID] or metrics[:1]:
            series = _over_evaluations(comparison, metric)
            if len({x for one in series for x in one.x}) > 1:
                name = title_of(metric, comparison.ways)
                title = f"{name} over network evaluations{f', {comparison.title}' if comparison.title else ''}"
                panels.append(panel(title, "network evaluations for one sample", name, series, _axes(series)))
    return panels


def _over_evaluations(comparison: Comparison, metric: str) -> list[Series]:
    """A line for each family of ways, the full chain as a star, and a level line through it."""
    families: dict[str, list[Way]] = {}
    for way in sorted(comparison.ways, key=lambda way: way.evaluations):
        if way.value(metric) is not None:
            families.setdefault(way.family, []).append(way)
    series = [_series(ways, metric, Style(COLOURS[index % 6], MARKERS[index % 6], DASHES[index // 6 % len(DASHES)]), name)
              for index, (name, ways) in enumerate(families.items())]
    full = comparison.full
    if full is not None and (value := full.value(metric)) is not None:
        ends = [min(way.evaluations for ways in families.values() for way in ways), full.evaluations]
        series += [Series(ends, [value, value], Style(FAINT, "", (0, (4, 3)), 1.0)),
                   Series([full.evaluations], [value], Style(INK, "*", "none", size=9),
                          f"the full chain ({full.first.point.sampler})")]
    return series


def _series(ways: Sequence[Way], metric: str, style: Style, name: str) -> Series:
    values = [value for way in ways if (value := way.value(metric)) is not None]
    errors = [way.error(metric) or 0.0 for way in ways]
    return Series([way.evaluations for way in ways], values, style, name, errors if any(errors) else ())


def _axes(series: Sequence[Series]) -> str:
    """Logarithmic over evaluations; the values too where they differ much."""
    values = [value for one in series for value in one.y]
    return "xy" if min(values) > 0 and max(values) > 6 * min(values) else "x"


def guidance_panels(lines: Sequence[Guided]) -> list[Markup]:
    """Metrics over the scale of one kind of guidance: one panel for each metric, and one for those that are shares."""
    ways = [way for line in lines for way in line.ways]
    metrics, panels, kind = metrics_of(ways), [], lines[0].kind
    shares = [key for key in TRADED if key in metrics]
    for group in [*([key] for key in metrics if key not in shares), shares]:
        drawn = [one for place, line in enumerate(lines[:DRAWN]) for one in _over_scale(line, group, place, len(lines[:DRAWN]))]
        if drawn:
            name = title_of(group[0], ways) if len(group) == 1 else _joined(group, ways)
            panels.append(panel(f"{name}: {kind}", f"guidance scale ({UNGUIDED.get(kind, 0):g}: none)", name if len(group) == 1
                                else "share", drawn))
    return panels


def trade_off_panels(lines: Sequence[Guided]) -> list[Markup]:
    """What guidance gives and takes, all kinds in one panel: precision over recall, and FID over the class that is seen."""
    drawn = lines[:DRAWN]
    ways = [way for line in drawn for way in line.ways]
    panels = []
    for x, y in (("recall", "precision"), ("label_accuracy", FID)):
        series = [one for place, line in enumerate(drawn) for one in _traded(line, x, y, place)]
        if series:
            across, up = title_of(x, ways), title_of(y, ways)
            panels.append(panel(f"{up} against {across}", across, up, series))
    return panels


def _traded(line: Guided, x: str, y: str, place: int) -> list[Series]:
    """A line along the scale, from the ring without guidance on."""
    others = [way for way in line.ways if way is not line.unguided]
    points = [(across, up) for way in ([line.unguided] if line.unguided else []) + others
              if (across := way.value(x)) is not None and (up := way.value(y)) is not None]
    if not points:
        return []
    style = Style(COLOURS[place % 6], MARKERS[place % 6], DASHES[place // 6 % len(DASHES)])
    name = ", ".join(filter(None, [line.kind, line.name]))
    series = [Series([across for across, _ in points], [up for _, up in points], style, name)]
    if line.unguided and line.unguided.value(x) is not None and line.unguided.value(y) is not None:
        series.append(Series([points[0][0]], [points[0][1]], Style(INK, "o", "none", hollow=True, size=9),
                             "" if place else "without guidance"))
    return series


def _joined(keys: Sequence[str], ways: Sequence[Way]) -> str:
    """Return "precision, recall, label seen (classifier)"."""
    titles = [title_of(key, ways).partition(" (") for key in keys]
    return ", ".join(name for name, _, _ in titles) + titles[-1][1] + titles[-1][2]


def _over_scale(line: Guided, metrics: Sequence[str], place: int, lines: int) -> list[Series]:
    """A line for each of `metrics`, and a ring around the point without guidance. `place`: of this line among `lines`."""
    series, ring = [], "" if place else "without guidance"
    for index, metric in enumerate(metrics):
        x, y, errors = line.points(metric)
        if not x:
            continue
        colour = place if len(metrics) == 1 else index
        style = Style(COLOURS[colour % 6], MARKERS[colour % 6], DASHES[place % len(DASHES)])
        names = [NUMBERS[metric].label if metric in NUMBERS else metric] if len(metrics) > 1 else []
        name = ", ".join([*names, *([line.name or "main settings"] if lines > 1 else [])])
        series.append(Series(x, y, style, name, errors if any(errors) else ()))
        if line.unguided is not None and (value := line.unguided.value(metric)) is not None and line.kind in UNGUIDED:
            series.append(Series([UNGUIDED[line.kind]], [value], Style(INK, "o", "none", hollow=True, size=9), ring))
            ring = ""
    return series
