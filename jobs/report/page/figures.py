"""The figures of a report: one small SVG a panel, which takes its colours from the page, light or dark."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

import matplotlib
import numpy as np
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from diffusion.schedules import betas_of
from jobs.cost.count import run_cost
from jobs.report.answer import SEEDS, Effect, label, swept_fields
from jobs.report.board import BoardLog
from jobs.report.run import CurvePoint, RunReport

# Matplotlib draws in these, and the page's style sheet says what they are: Okabe and Ito's palette, in two shades.
VARIABLES = {"#010203": "--ink", "#040506": "--faint", "#e69f00": "--orange", "#56b4e9": "--sky", "#009e73": "--green",
             "#0072b2": "--blue", "#d55e00": "--red", "#cc79a7": "--purple"}
INK, FAINT, *COLOURS = VARIABLES
COLOURS = [COLOURS[index] for index in (3, 0, 2, 4, 5, 1)] + [INK]
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # each colour has its marker: for grey paper, and for the colour-blind
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
POINTS = 200  # of a curve
SETTINGS = {"svg.fonttype": "none", "text.parse_math": False, "figure.facecolor": "none", "axes.facecolor": "none",
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


@dataclass(frozen=True)
class Series:
    x: Sequence
    y: Sequence[float]
    style: Style
    name: str = ""
    """For a legend inside the panel."""


def styles(runs: Sequence[RunReport]) -> dict[str, Style]:
    """How each run is drawn, by name: where two fields are swept, one is the colour and the other the dashes."""
    fields = {key: values for key, values in swept_fields(runs).items() if key not in SEEDS}
    if len(fields) in (1, 2):
        dashed, coloured = ([None] + sorted(fields, key=lambda key: len(fields[key])))[-2:]
        if len(fields[coloured]) <= len(COLOURS) and (dashed is None or len(fields[dashed]) <= len(DASHES)):
            found = {}
            for run in runs:
                colour, dash = (_place(run, key, fields) for key in (coloured, dashed))
                found[run.name] = Style(COLOURS[colour], MARKERS[colour], DASHES[dash])
            if len(set(found.values())) == len(found):
                return found
    count = len(COLOURS)
    return {run.name: Style(COLOURS[index % count], MARKERS[index % count], DASHES[index // count % len(DASHES)])
            for index, run in enumerate(runs)}


def _place(run: RunReport, key: str | None, fields: dict[str, list[str]]) -> int:
    """Of the run's value among those of the swept field `key`; 0 where it has none."""
    value = label(run.differs.get(key))
    return fields[key].index(value) if key and value in fields[key] else 0


def panel(title: str, x_label: str, y_label: str, series: Sequence[Series], log: str = "",
          categories: Sequence[str] = ()) -> str:
    """One chart as an <svg>. `log`: "x", "y", "xy" or nothing; `categories` name the x 0, 1, 2, ..."""
    with matplotlib.rc_context(SETTINGS):
        return _svg(chart(title, x_label, y_label, series, log, categories), title)


def chart(title: str, x_label: str, y_label: str, series: Sequence[Series], log: str, categories: Sequence[str]) -> Figure:
    """What `panel` turns into an <svg>."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for one in series:
        few, style = len(one.x) <= 12, one.style
        axes.plot(one.x, one.y, color=style.colour, linestyle=style.dashes, linewidth=style.width, marker=style.marker,
                  markersize=6 if style.hollow else 4.5, markerfacecolor="none" if style.hollow else style.colour,
                  markevery=1 if few else max(1, len(one.x) // 6), label=one.name)
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        values = [value for one in series for value in getattr(one, name)]
        if name in log and min(values) > 0:
            axes.set(**{f"{name}scale": "log"})
            _few_labels(axis, max(values) / min(values))
    if categories:
        axes.set_xticks(range(len(categories)), [text if len(text) <= 14 else text[:13] + "…" for text in categories],
                        rotation=30 if sum(map(len, categories)) > 40 else 0)
        axes.margins(x=0.15)
    axes.set(title=_wrapped(title, 52), xlabel=x_label, ylabel=y_label)
    axes.grid(True)
    if any(one.name for one in series):
        figure.legend(loc="outside lower center", fontsize=8.5, frameon=False, ncols=2)  # where no curve can be
    return figure


def _wrapped(text: str, columns: int) -> str:
    """In lines that end after a blank, a comma or an equals sign, as far as there are any."""
    lines = [""]
    for part in re.findall(r"[^ ,=]*[ ,=]?", text):
        lines += [""] if lines[-1] and len(lines[-1] + part) > columns else []
        lines[-1] += part
    return "\n".join(lines)


def _few_labels(axis: Axis, ratio: float) -> None:
    """A logarithmic axis labelled in plain figures, at 2 and 5 as well where powers of ten are too few."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(LogLocator(subs=(2, 5) if ratio < 30 else "auto"))
    axis.set_minor_formatter((lambda value, _: f"{value:g}") if ratio < 30 else NullFormatter())


def _svg(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()[buffer.getvalue().index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r' id="[a-z0-9]+(?:\.[a-z]+)?_\d+"', "", text)  # many figures share the page, so ids would repeat
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), text)  # a tenth of a pixel is enough
    text = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink='
                  rf'"http://www.w3.org/1999/xlink" role="img" aria-label="{escape(title)}" \1>', text, count=1)
    return text.strip()


def swatch(style: Style) -> str:
    """A short line as `panel` draws it, for a legend in the page."""
    pattern = "" if style.dashes == "-" else f' stroke-dasharray="{" ".join(map(str, style.dashes[1]))}"'
    shapes = {"o": '<circle cx="17" cy="6" r="3.5"/>', "s": '<path d="M14 3h6v6h-6z"/>', "^": '<path d="M17 2l4 7h-8z"/>',
              "D": '<path d="M17 1.5l4.5 4.5-4.5 4.5-4.5-4.5z"/>', "v": '<path d="M17 10l4-7h-8z"/>',
              "P": '<path d="M15.5 2h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z"/>',
              "X": '<path d="M13 2l8 8m0-8l-8 8" stroke-width="3"/>'}
    colour = f"var({VARIABLES[style.colour]})"
    return (f'<svg class="swatch" viewBox="0 0 34 12" aria-hidden="true" style="stroke:{colour};fill:{colour}">'
            f'<path d="M0 6h34" stroke-width="2"{pattern}/>{shapes.get(style.marker, "")}</svg>')


def smoothed(points: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, averaged over neighbours where there are more than POINTS; values that are not finite left out."""
    steps = np.array(sorted(step for step, value in points.items() if np.isfinite(value)), dtype=np.float64)
    values = np.array([points[int(step)] for step in steps])
    parts = np.array_split(np.arange(len(steps)), min(len(steps), POINTS)) if len(steps) else []
    return np.array([steps[part].mean() for part in parts]), np.array([values[part].mean() for part in parts])


def training_panels(logs: dict[str, BoardLog], drawn: dict[str, Style]) -> list[str]:
    """What training logged, all runs in one panel for each quantity."""
    titles = {"loss": ("Loss", "y"), "mse": ("Squared error of the prediction", "y"), "vb": ("Term of the bound", "y"),
              "grad_norm": ("Gradient norm", "y"), "images_per_second": ("Images per second", ""), "lr": ("Learning rate", "")}
    tags = list(dict.fromkeys(tag for log in logs.values() for tag in log.scalars))
    more = {tag: (tag.replace("_", " ").capitalize(), "y") for tag in tags if tag.startswith("grad") and tag not in titles}
    panels = []
    for tag, (title, log_axis) in {**titles, **more}.items():
        series = [Series(*smoothed(log.scalars[tag]), drawn[name]) for name, log in logs.items() if tag in log.scalars]
        if any(len(one.x) for one in series):
            panels.append(panel(title, "iteration", tag, series, log_axis))
    return panels


def quartile_panels(logs: dict[str, BoardLog]) -> list[str]:
    """The loss of each run by the quarter of the chain that t fell into."""
    panels = []
    for name, log in logs.items():
        series = [Series(*smoothed(log.scalars[f"loss_q{q}"]), Style(COLOURS[q], MARKERS[q], DASHES[q]),
                         f"t in quarter {q + 1}")
                  for q in range(4) if f"loss_q{q}" in log.scalars]
        if any(len(one.x) for one in series):
            panels.append(panel(name, "iteration", "loss", series, "y"))
    return panels


def bound_points(vb: np.ndarray) -> np.ndarray:
    """The timesteps of `vb` [T] that are drawn: dense at the beginning, where the bound is made."""
    t = np.unique(np.geomspace(1, len(vb), POINTS).round().astype(int)) - 1
    return t[np.isfinite(vb[t]) & (vb[t] > 0)]


def bound_panel(terms: dict[str, np.ndarray], drawn: dict[str, Style]) -> str:
    """Terms of the variational bound [T] by timestep, as in figure 2 of Nichol & Dhariwal 2021. `terms`: by run."""
    series = []
    for name, vb in terms.items():
        t = bound_points(vb)
        # Noise would hide the dashes, so neighbours that lie closer than a fortieth of the axis are averaged.
        parts = [part for part in np.split(t, np.searchsorted(t, np.geomspace(1, len(vb), 40))) if len(part)]
        series.append(Series([(part.mean() + 1) / len(vb) for part in parts], [vb[part].mean() for part in parts], drawn[name]))
    return panel("Terms of the bound", "(t + 1) / T", "bits/dim", series, "xy")


def curve_panels(runs: Sequence[RunReport], drawn: dict[str, Style]) -> list[str]:
    """Each metric over training steps, over sampling steps and over compute, where it was measured at several points."""
    panels = []
    for metric in dict.fromkeys(name for run in runs for point in run.curve for name in point.metrics):
        over_steps, over_compute, over_chain = [], [], []
        for run in runs:
            points = [point for point in run.curve if metric in point.metrics]
            if not points:
                continue
            main, style = run.curve[0], drawn[run.name]
            same = sorted((point for point in points if (point.sampler, point.timestep_respacing)
                           == (main.sampler, main.timestep_respacing)), key=lambda point: point.step)
            if len(same) > 1:
                values = [point.metrics[metric] for point in same]
                over_steps.append(Series([point.step for point in same], values, style))
                if run.spec:
                    flops = run_cost(run.spec).training_step_flops
                    over_compute.append(Series([point.step * flops for point in same], values, style))
            over_chain += _chains([point for point in points if point.step == main.step], metric, style, len(runs) == 1)
        panels += [panel(f"{metric} over {what}", x_label, metric, series, log) for series, what, x_label, log in (
            (over_steps, "training", "iteration", ""), (over_chain, "sampling steps", "steps (hollow: DDIM)", "x"),
            (over_compute, "training compute", "FLOPs", "x")) if series]
    return panels


def _chains(points: list[CurvePoint], metric: str, style: Style, alone: bool) -> list[Series]:
    """One line a sampler over the lengths of its chains; DDIM has hollow markers."""
    lines = []
    for sampler in dict.fromkeys(point.sampler for point in points):
        ours = sorted((point for point in points if point.sampler == sampler), key=lambda point: point.sampling_steps)
        lines.append(Series([point.sampling_steps for point in ours], [point.metrics[metric] for point in ours],
                            replace(style, hollow=sampler == "ddim"), sampler if alone else ""))
    return lines if len(points) > 1 else []


def effect_panels(effects: Sequence[Effect]) -> list[str]:
    """A metric over a swept field: each matched group a thin line, their mean a thick one."""
    panels = []
    for effect in effects:
        places = range(len(effect.means))
        groups = [Series(places, [run.metrics[effect.metric].value for run in group], Style(FAINT, "o", "-", 0.8))
                  for group in effect.groups] if len(effect.groups) > 1 else []
        panels.append(panel(f"{effect.metric} by {effect.field.rpartition('.')[2]}", effect.field, effect.metric,
                            [*groups, Series(places, list(effect.means.values()), Style(COLOURS[0], "D", "-", 2.4))],
                            categories=list(effect.means)))
    return panels


def schedule_panels(runs: Sequence[RunReport]) -> list[str]:
    """alpha_bar and the log signal-to-noise ratio of every noise schedule among `runs` (Nichol & Dhariwal 2021, figure 5)."""
    chains = [run.spec.diffusion for run in runs if run.spec]
    kinds = list(dict.fromkeys((chain.noise_schedule, chain.diffusion_steps) for chain in chains))
    signals, ratios = [], []
    for index, (schedule, steps) in enumerate(kinds[:len(DASHES)]):
        alphas_cumprod = np.cumprod(1 - betas_of(schedule, steps))
        kept = np.unique(np.linspace(0, steps - 1, POINTS).round().astype(int))
        style, name, x = Style(COLOURS[index], "", DASHES[index]), f"{schedule}, T = {steps:,}", (kept + 1) / steps
        signals.append(Series(x, alphas_cumprod[kept], style, name))
        # The last betas of the cosine schedule leave next to nothing; log(0) is no number.
        ratios.append(Series(x, np.log(np.maximum(alphas_cumprod[kept], 1e-30) / (1 - alphas_cumprod[kept])), style, name))
    return [panel("Signal left", "(t + 1) / T", "alphas_cumprod", signals),
            panel("Signal to noise", "(t + 1) / T", "log SNR", ratios)] if kinds else []
