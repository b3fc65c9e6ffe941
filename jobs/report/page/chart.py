"""One small chart as an SVG, which takes its colours from the page, light or dark."""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from jobs.report.run import RunReport
from jobs.report.verdicts.points import is_seed, label, points_of, single, swept_fields
from jobs.terminal import printable

# Matplotlib draws in these colours, each of which stands for a variable of report.css: Okabe and Ito's palette, in two shades.
VARIABLES = {"#010203": "--ink", "#040506": "--faint", "#e69f00": "--orange", "#56b4e9": "--sky", "#009e73": "--green",
             "#0072b2": "--blue", "#d55e00": "--red", "#cc79a7": "--purple"}
INK, FAINT, *COLOURS = VARIABLES
COLOURS = [COLOURS[index] for index in (3, 0, 2, 4, 5, 1)] + [INK]
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # one for each colour: for grey paper, and for the colour-blind
DASHES: tuple[str | tuple, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
SETTINGS: Any = {"svg.fonttype": "none", "text.parse_math": False, "figure.facecolor": "none", "axes.facecolor": "none",
            "svg.hashsalt": "iddpm", "font.family": "sans-serif", "font.size": 10, "axes.edgecolor": FAINT,
            "axes.labelcolor": INK, "text.color": INK, "xtick.color": FAINT, "ytick.color": FAINT, "xtick.labelcolor": INK,
            "ytick.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11,
            "axes.titlelocation": "left", "grid.color": FAINT, "grid.alpha": 0.3, "grid.linewidth": 0.5}


@dataclass(frozen=True)
class Style:
    colour: str = INK
    marker: str = ""
    dashes: str | tuple = "-"
    width: float = 1.6
    hollow: bool = False
    """Markers only outlined."""
    size: float = 4.5
    """Of markers, in points."""


@dataclass(frozen=True)
class Series:
    x: Sequence | np.ndarray
    y: Sequence[float] | np.ndarray
    style: Style
    name: str = ""
    """For a legend inside the panel."""
    errors: Sequence[float] = ()
    """Half the length of the bar at each point."""


def styles(runs: Sequence[RunReport]) -> dict[str, Style]:
    """Return how each run is drawn, by name. Where two fields are swept, one is the colour and the other the dashes.

    Runs that differ in seeds alone are drawn alike, if other fields are swept.
    """
    by_field, points = _styles_by_field(runs), points_of(runs)
    if len(set(by_field.values())) == len(points) and len(by_field) == len(runs):
        return by_field
    count, alike = len(COLOURS), points if len(points) > 1 else [*map(single, runs)]
    return {run.name: Style(COLOURS[index % count], MARKERS[index % count], DASHES[index // count % len(DASHES)])
            for index, point in enumerate(alike) for run in point.runs}


def _styles_by_field(runs: Sequence[RunReport]) -> dict[str, Style]:
    """Return styles that say which values of the swept fields a run has; empty where the fields or their values are too many."""
    fields = {key: values for key, values in swept_fields(runs).items() if not is_seed(key)}
    if len(fields) not in (1, 2):
        return {}
    *dashed, coloured = sorted(fields, key=lambda key: len(fields[key]))
    if len(fields[coloured]) > len(COLOURS) or any(len(fields[key]) > len(DASHES) for key in dashed):
        return {}
    found = {}
    for run in runs:
        colour = _index_of_value(run, coloured, fields)
        dash = _index_of_value(run, dashed[0], fields) if dashed else 0
        found[run.name] = Style(COLOURS[colour], MARKERS[colour], DASHES[dash])
    return found


def _index_of_value(run: RunReport, key: str, fields: dict[str, list[str]]) -> int:
    """Return the index of the run's value among the values of the swept field `key`; 0 for a run without a value."""
    value = label(run.differs.get(key))
    return fields[key].index(value) if value in fields[key] else 0


def panel(title: str, x_label: str, y_label: str, series: Sequence[Series], log: str = "",
          categories: Sequence[str] = ()) -> Markup:
    """Return one chart as an <svg>. `log`: "x", "y", "xy" or nothing. `categories`: names of x = 0, 1, 2, ..."""
    title, x_label, y_label = map(printable, (title, x_label, y_label))
    categories = list(map(printable, categories))
    series = [replace(one, name=printable(one.name)) for one in series]
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the browser has fonts for other scripts
        return Markup(_svg(chart(title, x_label, y_label, series, log, categories), title))


def chart(title: str, x_label: str, y_label: str, series: Sequence[Series], log: str, categories: Sequence[str]) -> Figure:
    """Return the figure that `panel` turns into an <svg>."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for one in series:
        _plot(axes, one)
        if len(one.errors):
            _plot_errors(axes, one)
    if "x" in log:
        _logarithmic(axes.xaxis, "x", [value for one in series for value in one.x])
    if "y" in log:
        _logarithmic(axes.yaxis, "y", [value for one in series for value in one.y])
    if categories:
        _name_ticks(axes, categories)
    axes.set(title=_wrapped(title, 52), xlabel=x_label, ylabel=y_label)
    axes.grid(True)
    if any(one.name for one in series):
        figure.legend(loc="outside lower center", fontsize=8.5, frameon=False, ncols=2)  # no curve is there
    return figure


def _plot(axes: Axes, series: Series) -> None:
    style, count = series.style, len(series.x)
    axes.plot(series.x, series.y, color=style.colour, linestyle=style.dashes, linewidth=style.width, marker=style.marker,
              markersize=style.size, markerfacecolor="none" if style.hollow else style.colour,
              markevery=1 if count <= 12 or style.dashes == "none" else count // 6, label=series.name)


def _plot_errors(axes: Axes, series: Series) -> None:
    axes.errorbar(series.x, series.y, yerr=series.errors, fmt="none", ecolor=series.style.colour, elinewidth=1.2, capsize=4)


def _name_ticks(axes: Axes, categories: Sequence[str]) -> None:
    """Write `categories` at x = 0, 1, 2, ..., sloping where they are long."""
    axes.set_xticks(range(len(categories)), [text if len(text) <= 14 else text[:13] + "…" for text in categories],
                    rotation=30 if sum(map(len, categories)) > 40 else 0)
    axes.margins(x=0.15)


def _wrapped(text: str, columns: int) -> str:
    """Break `text` into lines of at most `columns`, where there are blanks, commas or equals signs to end a line with."""
    lines = [""]
    for part in re.findall(r"[^ ,=]*[ ,=]?", text):
        lines += [""] if lines[-1] and len(lines[-1] + part) > columns else []
        lines[-1] += part
    return "\n".join(lines)


def _logarithmic(axis: Axis, name: str, values: list[float]) -> None:
    """Make the axis logarithmic if all `values` are positive, with labels in plain figures.

    Powers of ten are too few labels for a short axis, which has 2 and 5 as well.
    """
    if min(values) <= 0 or name == "x" and max(values) < 3 * min(values):  # so short an axis has no round labels
        return
    axis.axes.set(**{f"{name}scale": "log"})
    short = max(values) / min(values) < 30
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(LogLocator(subs=(2, 5) if short else "auto"))
    axis.set_minor_formatter((lambda value, _: f"{value:g}") if short else NullFormatter())


def _svg(figure: Figure, title: str) -> str:
    """Draw `figure` for use inside a page. Matplotlib writes a file of its own: with a header, ids, exact paths and colours."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()[buffer.getvalue().index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r' id="[a-z0-9]+(?:\.[a-z]+)?_\d+"', "", text)  # ids would repeat on a page of many charts
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), text)  # a tenth of a pixel is enough
    text = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    head = ('<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
            f'aria-label="{escape(title)}"')
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', lambda found: f"{head} {found[1]}>", text, count=1)
    return text.strip()


def swatch(style: Style) -> Markup:
    """Return a short line as `panel` draws it, for a legend in the page."""
    pattern = f' stroke-dasharray="{" ".join(map(str, style.dashes[1]))}"' if isinstance(style.dashes, tuple) else ""
    shapes = {"o": '<circle cx="17" cy="6" r="3.5"/>', "s": '<path d="M14 3h6v6h-6z"/>', "^": '<path d="M17 2l4 7h-8z"/>',
              "D": '<path d="M17 1.5l4.5 4.5-4.5 4.5-4.5-4.5z"/>', "v": '<path d="M17 10l4-7h-8z"/>',
              "P": '<path d="M15.5 2h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z"/>',
              "X": '<path d="M13 2l8 8m0-8l-8 8" stroke-width="3"/>'}
    colour = f"var({VARIABLES[style.colour]})"
    return Markup(f'<svg class="swatch" viewBox="0 0 34 12" aria-hidden="true" style="stroke:{colour};fill:{colour}">'
                  f'<path d="M0 6h34" stroke-width="2"{pattern}/>{shapes.get(style.marker, "")}</svg>')
