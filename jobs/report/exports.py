"""The report beside its page: everything as JSON, every number as CSV, and the table of runs in Markdown."""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import asdict
from statistics import stdev
from typing import Any

from jobs.kinds.diffusion.kind import BITS
from jobs.quantities import amount, figure
from jobs.report.cost import layer_groups, sampling_costs, stage_flops
from jobs.report.curves import bound_points, smoothed
from jobs.report.evaluation import CurvePoint
from jobs.report.families.described import families_of
from jobs.report.families.exports import as_records, markdown_rows, numbers
from jobs.report.published import published_for
from jobs.report.run import RunReport
from jobs.report.samplings.comparisons import Comparison
from jobs.report.samplings.ways import FID
from jobs.report.study import StudyReport
from jobs.report.verdicts.points import Point, is_seed, label
from jobs.report.verdicts.ranking import best_points, best_runs, metric_named, ranked
from jobs.spec.sampling_names import CHAIN, in_words
from jobs.terminal import printable

COLUMNS = ("run", "table", "quantity", "at", "value")
"""The columns of report.csv. `at`: the iteration, timestep or number of steps that a value belongs to, or empty."""


def as_json(study: StudyReport) -> dict:
    """Everything that the report knows. Settings and numbers that are not finite, which JSON does not have, are null."""
    return _finite({"study": study.name, "question": study.question, "answer": study.answer, "cautions": study.cautions,
            "swept": study.fields, "runs": [_run(study, run) for run in study.runs],
            "settings": [_setting(point) for point in study.points],
            "effects": [{"field": effect.field, "metric": effect.metric, "means": effect.means, "best": effect.best,
                         "matched_groups": [[point.name for point in group] for group in effect.groups], "wins": effect.wins,
                         "verdict": effect.verdict}
                        for effect in study.effects],
            "models": [asdict(family.description) | {"runs": [run.name for run in family.runs]}
                       for family in families_of(run for run in study.runs if not run.left)],
            "families": as_records(study.members),
            "memorisation": {name: asdict(found) for name, found in study.memorised.items()},
            "samplings": [_compared(comparison) for comparison in study.comparisons],
            "published": [asdict(row) for row in published_for(study.main.known_spec)[1]] if study.main else []})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value if not isinstance(value, float) or math.isfinite(value) else None


def _setting(point: Point) -> dict:
    """A point of the sweep: mean and standard deviation (null for one run) over its seeds."""
    metrics = {name: {"mean": metric.value, "standard_deviation": stdev(values) if len(values) > 1 else None, "n": len(values),
                      "values": values}
               for name, metric in point.metrics.items() for values in [point.values(name)]}
    return {"name": point.name, "differs": point.differs, "runs": [run.name for run in point.runs], "metrics": metrics}


def _compared(comparison: Comparison) -> dict:
    """The verdict on ways to sample that should give one distribution. Gaps are to the FID of the full chain."""
    full, cheapest = comparison.full, comparison.cheapest
    return {"training": comparison.training, "shared": comparison.shared, "full_chain": full and full.name,
            "cheapest": cheapest and cheapest.name,
            "ways": [{"name": way.name, "sampling": way.described, "runs": [entry.run.name for entry in way.entries],
                      "evaluations": way.evaluations, "fid": way.value(FID), "half_interval": way.error(FID),
                      "gap": gap[0] if (gap := comparison.gap(way)) else None, "as_good": comparison.passes(way),
                      "seconds": way.seconds} for way in comparison.ways]}


def _run(study: StudyReport, run: RunReport) -> dict:
    facts: dict[str, Any] = {"name": run.name, "state": run.state, "differs": run.differs, "samples": run.samples,
                             "metrics": {name: asdict(metric) for name, metric in run.metrics.items()},
                             "curve": [asdict(point) for point in run.curve],
                             "stages": {stage: asdict(time) for stage, time in study.times[run.name].items()}}
    if cost := run.cost:
        facts |= {"parameters": cost.parameters, "forward_flops": cost.forward_flops, "flops": stage_flops(cost)}
    if run.failure:
        failure = run.failure
        facts["failure"] = {"stage": failure.stage, "kind": failure.kind, "message": failure.message,
                            "next": failure.next_step(run.run.path)}
    return facts | {"remarks": run.remarks}


def as_csv(study: StudyReport) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_numbers(study))
    return text.getvalue()


def _numbers(study: StudyReport) -> Iterator[tuple]:
    for run in study.runs:
        yield from _numbers_of(study, run)
    for name, log in study.logs.items():
        for tag, points in log.scalars.items():
            yield from ((name, "training", tag, f"{step:g}", value) for step, value in zip(*smoothed(points), strict=True))
    for name, vb in study.bounds.items():
        yield from ((name, "bound", BITS, t, vb[t]) for t in bound_points(vb))
    yield from numbers(study.members)
    yield from ((name, "memorisation", key, "", value) for name, found in study.memorised.items()
                for key, value in asdict(found).items() if isinstance(value, (int, float)))
    for point in study.points:
        if point.repeated:
            yield from _numbers_of_setting(point)
    for effect in study.effects:
        yield from (("", "effect", f"{effect.metric} by {effect.field}", value, mean) for value, mean in effect.means.items())
    if study.main:
        yield from _numbers_of_main(study, study.main)


def _numbers_of(study: StudyReport, run: RunReport) -> Iterator[tuple]:
    for name, metric in run.metrics.items():
        yield run.name, "metric", name, "", metric.value
        yield from ((run.name, "quarter", name, number, value) for number, value in enumerate(metric.quarters, 1))
    for point in run.curve:
        way = _way(point)
        for name, value in point.metrics.items():
            yield run.name, "curve", f"{name} {way}", point.step, value
            if name in point.intervals:
                yield from ((run.name, "curve", f"{name} {end} of 95 % {way}", point.step, value)
                            for end, value in zip(("low", "high"), point.intervals[name], strict=True))
        yield run.name, "curve", f"evaluations {way}", point.step, point.evaluations
    for stage, time in study.times[run.name].items():
        yield run.name, "seconds", stage, "", time.seconds
        yield run.name, "process hours", stage, "", time.process_hours
    if cost := run.cost:
        yield run.name, "cost", "parameters", "", cost.parameters
        yield run.name, "cost", "forward FLOPs", "", cost.forward_flops
        yield from ((run.name, "cost", f"{stage} FLOPs", "", flops) for stage, flops in stage_flops(cost).items())


def _way(point: CurvePoint) -> str:
    """How a point was sampled: "ddim 10 steps", "unipc logsnr10 9 steps, guidance classifier_free 1.5"."""
    respacing = "" if point.timestep_respacing.isdecimal() else point.timestep_respacing
    others = {key: value for key, value in point.differs.items() if key not in CHAIN}
    chain = " ".join(filter(None, [point.sampler, respacing, f"{point.sampling_steps} steps"]))
    return ", ".join(filter(None, [chain, in_words(others)]))


def _numbers_of_setting(point: Point) -> Iterator[tuple]:
    for name, metric in point.metrics.items():
        values = point.values(name)
        yield point.name, "mean over seeds", name, "", metric.value
        if len(values) > 1:
            yield point.name, "standard deviation over seeds", name, "", stdev(values)
        yield point.name, "seeds", name, "", len(values)


def _numbers_of_main(study: StudyReport, run: RunReport) -> Iterator[tuple]:
    for group in layer_groups(run.known_spec):
        for key in ("layers", "parameters", "flops", "activations", "checkpointed"):
            yield run.name, "layers", f"{group.kind} {key}", group.resolution, getattr(group, key)
    for cost in sampling_costs(run, study.times[run.name]):
        yield run.name, "sampling", "FLOPs", cost.steps, cost.flops
        if cost.seconds is not None:
            yield run.name, "sampling", "seconds", cost.steps, cost.seconds
    for row in published_for(run.known_spec)[1]:
        setting = f"T={row.diffusion_steps} {row.noise_schedule} {row.loss} ({row.source})"
        for name, value in (("NLL", row.bits_per_dim), ("FID", row.fid)):
            if value is not None:
                yield "published", "published", f"{name} {setting}", row.iterations, value


def as_markdown(study: StudyReport) -> str:
    """Return the table of runs, for a README; of settings before it, where they have several seeds. The best is bold."""
    notes = [f"{name}: {metric.basis}" for name in study.metrics
             if (metric := ranked(study.runs, name)[0].metrics[name]).basis]
    settings = [*_settings_table(study), "", "Each run:", ""] if study.repeated else []
    families = [*map(_line, _headed(markdown_rows(study.members))), ""] if study.members else []
    return "\n".join([study.question, "", *families, *settings, *_runs_table(study), "",
                      *(f"- {note}" for note in notes + study.cautions)]) + "\n"


def _settings_table(study: StudyReport) -> Iterator[str]:
    fields = [key for key in study.fields if not is_seed(key)]
    best = {name: best_points(study.points, name) for name in study.metrics}
    yield from _head([*(fields or ["setting"]), "runs", *_metric_heads(study)])
    for point in study.points:
        cells = [label(point.differs[key]) if key in point.differs else "" for key in fields] or [point.name]
        cells.append(str(len(point.runs)))
        for name in study.metrics:
            metric = point.metrics.get(name)
            cells.append(_bold(f"{metric.text} {metric.spread}".strip() if metric else "", point in best[name]))
        yield _line(cells)


def _runs_table(study: StudyReport) -> Iterator[str]:
    # Where there are several seeds, settings are compared: the best run is only the luckiest.
    best = {name: [] if study.repeated else best_runs(study.runs, name) for name in study.metrics}
    named = _alike(study)
    yield from _head([*(["run"] if named else []), *(study.fields or ["run"]), *_metric_heads(study), "training FLOP", "state"])
    for run in study.runs:
        yield _line([*([run.name] if named else []), *_cells(study, run, best)])


def _alike(study: StudyReport) -> bool:
    """Whether the swept fields that are columns tell runs apart too little, so that names are needed: sections are no columns."""
    fields = [tuple(label(run.differs.get(key)) for key in study.fields) for run in study.runs]
    return bool(study.fields) and len(set(fields)) < len(fields)


def _metric_heads(study: StudyReport) -> list[str]:
    metrics = [metric_named(study.runs, name) for name in study.metrics]
    return [f"{metric.name} {'↑' if metric.higher_is_better else '↓'}" for metric in metrics]


def _head(cells: list[str]) -> list[str]:
    return [*map(_line, _headed([cells]))]


def _headed(rows: list[list[str]]) -> list[list[str]]:
    """Return the rows of a table with the line that Markdown wants below its head."""
    return [rows[0], ["---"] * len(rows[0]), *rows[1:]]


def _bold(text: str, is_best: bool) -> str:
    return f"**{text}**" if is_best and text else text


def _cells(study: StudyReport, run: RunReport, best: dict[str, list[RunReport]]) -> list[str]:
    cells = [label(run.differs[key]) if key in run.differs else "" for key in study.fields] or [run.name]
    for name in study.metrics:
        missing = "–" if run.metrics else ""  # the run has no such number
        cells.append(_bold(figure(run.metrics[name].value) if name in run.metrics else missing, run in best[name]))
    cost = run.cost
    return [*cells, amount(cost.training_flops).strip() if cost else "", run.state]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(printable(cell).replace("|", "\\|") for cell in cells) + " |"
