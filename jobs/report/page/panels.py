"""The charts of the report: which curves each of them has."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import stdev

import numpy as np
from markupsafe import Markup

from jobs.kinds.diffusion.kind import BITS
from jobs.report.board import BoardLog
from jobs.report.curves import bound_points, evenly_spaced, smoothed
from jobs.report.diffusion_facts import noise_schedules
from jobs.report.page.chart import COLOURS, DASHES, FAINT, MARKERS, Series, Style, panel
from jobs.report.run import RunReport
from jobs.report.verdicts.effects import Effect

TITLES = {"loss": "Loss", "mse": "Squared error of the prediction", "vb": "Term of the bound", "grad_norm": "Gradient norm",
          "images_per_second": "Images per second", "lr": "Learning rate", "accuracy": "Accuracy",
          "accuracy_top5": "Accuracy of the top 5"}
NOT_LOGARITHMIC = ("images_per_second", "lr", "accuracy", "accuracy_top5")
ABBREVIATIONS = ("elbo", "kl", "r1", "r2")
OF_A_KIND = ("loss", "grad_norm")
"""Tags that all kinds have, each with its own meaning."""
COUNTS = ("samples", "memory_gib", "loss_scale")


def training_panels(logs: Mapping[str, BoardLog], drawn: Mapping[str, Style], kinds: Mapping[str, str]) -> list[Markup]:
    """What training logged, all runs in one panel for each quantity. `kinds`: by run.

    Losses and gradients of unlike kinds have unlike scales, so that each kind has a panel of its own.
    """
    tags = dict.fromkeys(tag for log in logs.values() for tag in log.scalars)
    shown = {**TITLES, **{tag: _title(tag) for tag in tags if tag not in TITLES and _is_term(tag, logs)}}
    panels = []
    for tag, title in shown.items():
        there: dict[str, list[Series]] = {}
        for name, log in logs.items():
            if tag in log.scalars and len((series := Series(*smoothed(log.scalars[tag]), drawn[name])).x):
                there.setdefault(kinds[name] if tag in OF_A_KIND else "", []).append(series)
        logarithmic = tag.rpartition("/")[2] not in NOT_LOGARITHMIC
        for kind, drawn_here in there.items():
            panels.append(panel(f"{title}: {kind}" if len(there) > 1 else title, "iteration", tag, drawn_here,
                                "y" if logarithmic and all(min(one.y) > 0 for one in drawn_here) else ""))
    return panels


def _title(tag: str) -> str:
    """Return "Discriminator: learning rate" of "discriminator/lr", and "ELBO KL" of "elbo_kl"."""
    network, _, term = tag.rpartition("/")
    known = TITLES.get(term)
    words = known[:1].lower() + known[1:] if known else " ".join(
        word.upper() if word in ABBREVIATIONS else word for word in term.split("_"))
    return f"{network.capitalize()}: {words}" if network else words[:1].upper() + words[1:]


def _is_term(tag: str, logs: Mapping[str, BoardLog]) -> bool:
    """Whether a tag is a quantity of training: not a count, a quarter of another one, or a metric of the evaluation."""
    points = max(len(log.scalars.get(tag, {})) for log in logs.values())
    return points > 1 and tag not in COUNTS and re.search("_q[0-3]$", tag) is None


def quartile_panels(logs: dict[str, BoardLog]) -> list[Markup]:
    """The loss of each run by the quarter of the chain that t fell into, and a classifier's accuracy."""
    panels = []
    for name, log in logs.items():
        for tag in ("loss", "accuracy"):
            series = [Series(*smoothed(log.scalars[f"{tag}_q{q}"]), Style(COLOURS[q], MARKERS[q], DASHES[q]),
                             f"t in quarter {q + 1}")
                      for q in range(4) if f"{tag}_q{q}" in log.scalars]
            if any(len(one.x) for one in series):
                panels.append(panel(name, "iteration", tag, series, "" if tag in NOT_LOGARITHMIC else "y"))
    return panels


def bound_panel(terms: dict[str, np.ndarray], drawn: dict[str, Style]) -> Markup:
    """Terms of the variational bound [T] by timestep, as in figure 2 of Nichol & Dhariwal 2021. `terms`: by run."""
    series = []
    for name, vb in terms.items():
        t = bound_points(vb)
        # Noise would hide the dashes, so neighbours closer than a fortieth of the axis are averaged.
        parts = [part for part in np.split(t, np.searchsorted(t, np.geomspace(1, len(vb), 40))) if len(part)]
        series.append(Series([(part.mean() + 1) / len(vb) for part in parts], [vb[part].mean() for part in parts], drawn[name]))
    return panel("Terms of the bound", "(t + 1) / T", BITS, series, "xy")


def curve_panels(runs: Sequence[RunReport], drawn: dict[str, Style]) -> list[Markup]:
    """Each metric over training steps and over compute, where it was measured at several checkpoints."""
    metrics = dict.fromkeys(name for run in runs for point in run.curve for name in point.metrics)
    return [one for metric in metrics for one in _curve_panels(runs, drawn, metric)]


def _curve_panels(runs: Sequence[RunReport], drawn: dict[str, Style], metric: str) -> list[Markup]:
    over_training, over_compute = [], []
    for run in runs:
        if series := _over_training(run, metric, drawn[run.name]):
            over_training.append(series)
            if cost := run.cost:
                over_compute.append(replace(series, x=[step * cost.training_step_flops for step in series.x]))
    return [panel(f"{metric} over {what}", x_label, metric, series, log) for series, what, x_label, log in (
        (over_training, "training", "iteration", ""),
        (over_compute, "training compute", "FLOPs", "x")) if series]


def _over_training(run: RunReport, metric: str, style: Style) -> Series | None:
    """The metric over the checkpoints that the main sampler drew samples from; None for fewer than two."""
    points = [point for point in run.curve if metric in point.metrics and point.samples_like(run.curve[0])]
    if len(points) < 2:
        return None
    points.sort(key=lambda point: point.step)
    return Series([point.step for point in points], [point.metrics[metric] for point in points], style)


def effect_panels(effects: Sequence[Effect]) -> list[Markup]:
    """A metric over a swept field: each matched group a thin line, their mean a thick one, each seed a dot.

    With a single group the bars are the standard deviation over seeds.
    """
    panels = []
    for effect in effects:
        x, metric = range(len(effect.means)), effect.metric
        groups = [Series(x, [point.metrics[metric].value for point in group], Style(FAINT, "o", "-", 0.8))
                  for group in effect.groups] if len(effect.groups) > 1 else []
        seeds = [(place, value) for group in effect.groups for place, point in enumerate(group) if point.repeated
                 for value in point.values(metric)]
        places, values = [place for place, _ in seeds], [value for _, value in seeds]
        dots = [Series(places, values, Style(FAINT, "o", "none", hollow=True, size=6))] if seeds else []
        bars = [_spread(point.values(metric)) for point in effect.groups[0]] if seeds and not groups else []
        mean = Series(x, list(effect.means.values()), Style(COLOURS[0], "D", "-", 2.4), errors=bars)
        panels.append(panel(f"{metric} by {effect.field.rpartition('.')[2]}", effect.field, metric, [*groups, mean, *dots],
                            categories=list(effect.means)))
    return panels


def _spread(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def schedule_panels(runs: Sequence[RunReport]) -> list[Markup]:
    """alpha_bar and the log signal-to-noise ratio of every noise schedule among `runs` (Nichol & Dhariwal 2021, figure 5)."""
    schedules = noise_schedules(run.spec for run in runs if run.spec)[:len(DASHES)]
    signals, ratios = [], []
    for index, schedule in enumerate(schedules):
        steps = len(schedule.alphas_cumprod)
        kept = evenly_spaced(steps)
        signal, x = schedule.alphas_cumprod[kept], (kept + 1) / steps
        style = Style(COLOURS[index], "", DASHES[index])
        signals.append(Series(x, signal, style, schedule.name))
        # The last betas of the cosine schedule leave almost no signal, and log(0) is not a number.
        ratios.append(Series(x, np.log(np.maximum(signal, 1e-30) / (1 - signal)), style, schedule.name))
    return [panel("Signal left", "(t + 1) / T", "alphas_cumprod", signals),
            panel("Signal to noise", "(t + 1) / T", "log SNR", ratios)] if schedules else []
