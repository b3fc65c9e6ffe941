"""The sections on runs: the table of all runs, and what failed."""

from collections.abc import Iterator

from jobs.kinds.diffusion.kind import BITS
from jobs.quantities import amount, figure
from jobs.report.cost import StageTime, stage_flops
from jobs.report.evaluation import Metric
from jobs.report.page.blocks import Block, Bullets, Cell, Heading, Paragraph, Row, Table
from jobs.report.run import RunReport
from jobs.report.study import StudyReport
from jobs.report.verdicts.answer import LISTED
from jobs.report.verdicts.points import Point, is_seed, label
from jobs.report.verdicts.ranking import best_points, best_runs, ranked
from jobs.run.failures import Failure
from jobs.run.progress import duration
from jobs.spec.kinds import draws_samples
from jobs.spec.stages import STAGES


def runs_blocks(study: StudyReport) -> list[Block]:
    best = {name: ranked(study.runs, name)[0].metrics[name] for name in study.metrics}
    # Where there are several seeds, settings are compared: the best run is only the luckiest.
    marked = {name: [] if study.repeated else best_runs(study.runs, name) for name in study.metrics}
    heads: Row = [
        "run", "state", *(Cell(key.rpartition(".")[2], key.rpartition(".")[0]) for key in study.fields),
        *(Cell(name, _how_to_read(metric)) for name, metric in best.items()), *(Cell(stage, "wall time") for stage in STAGES),
        Cell("process", "hours"), Cell("FLOP", "all stages, counted")]
    rows = [list(_row(study, run, marked)) for run in study.runs]
    notes = [_basis(metric) for metric in best.values() if metric.basis]
    return [*_settings(study), Table(heads, rows, sortable=True), Bullets(notes, "note"), Paragraph(_about_times(study), "note")]


def _settings(study: StudyReport) -> list[Block]:
    """A row for each setting, where there are several seeds of one."""
    if not study.repeated:
        return []
    fields = [key for key in study.fields if not is_seed(key)]
    best = {name: ranked(study.points, name)[0].metrics[name] for name in study.metrics if ranked(study.points, name)}
    marked = {name: best_points(study.points, name) for name in best}
    heads: Row = ["setting", "runs", *(Cell(name, _how_to_read(metric)) for name, metric in best.items())]
    rows: list[Row] = [[point.name, Cell(str(len(point.runs)), value=len(point.runs)),
                        *(_over_seeds(point, name, point in marked[name]) for name in best)] for point in study.points]
    note = "Below each mean: the standard deviation over the n runs of the setting."
    if fields:
        note += " Marked: the best mean, and those that cannot be told from it; nothing where that is all."
    return [Heading("Settings, over seeds"), Table(heads, rows, sortable=True), Paragraph(note, "note"), Heading("Each run")]


def _over_seeds(point: Point, name: str, best: bool) -> Cell:
    metric = point.metrics.get(name)
    return Cell(metric.text, metric.spread, metric.value, best) if metric else Cell("")


def _row(study: StudyReport, run: RunReport, marked: dict[str, list[RunReport]]) -> Iterator[Cell]:
    yield Cell(run.name)
    yield Cell(run.state, run.failure.kind if run.failure and run.state == "failed" else "")
    for key in study.fields:
        yield _swept(run, key)
    for name in study.metrics:
        metric = run.metrics.get(name)
        yield Cell(figure(metric.value), metric.spread, metric.value, run in marked[name]) if metric else Cell(
            "–" if run.metrics else "")  # a dash: the run has no such number
    times = study.times[run.name]
    for stage in STAGES:
        yield _wall_time(times[stage]) if stage in times else Cell("")
    hours = sum(time.process_hours for time in times.values())
    yield Cell(f"{hours:.3g}", value=hours) if times else Cell("")
    cost = run.cost
    flops = sum(stage_flops(cost).values()) if cost else 0
    yield Cell(amount(flops).strip(), value=float(flops)) if flops else Cell("")


def _about_times(study: StudyReport) -> str:
    estimated = any(not time.recorded for times in study.times.values() for time in times.values())
    return ("Comparable, or not: with published figures. Wall times are those of stages.jsonl, over all attempts; process hours "
            "count every process, which is GPU hours where each has a GPU."
            + (" ≈: estimated from the logged speed, without saving and starting." if estimated else ""))


def _basis(metric: Metric) -> str:
    return f"{metric.name}: {metric.basis}{f'; below the value the {metric.spread_is}' if metric.spread else ''}."


def _how_to_read(metric: Metric) -> str:
    """For a column's head. Lines do not break at the spaces inside each phrase."""
    direction = "higher is better" if metric.higher_is_better else "lower is better"
    comparable = {True: "comparable", False: "not comparable", None: "on the same data" if metric.name == BITS else ""}
    return ", ".join(words.replace(" ", "\u00a0") for words in (direction, comparable[metric.comparable]) if words)


def _swept(run: RunReport, key: str) -> Cell:
    value = run.differs.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Cell(label(value), value=float(value))
    return Cell(label(value) if key in run.differs else "")


def _wall_time(time: StageTime) -> Cell:
    return Cell(("" if time.recorded else "≈ ") + duration(time.seconds), time.device, time.seconds)


def quarters_blocks(study: StudyReport) -> list[Block]:
    """The numbers that are known by quarter of the timesteps: those of classifiers of noisy images."""
    rows = [_quarters_row(run, metric) for run in study.runs for metric in run.metrics.values() if metric.quarters]
    if not rows:
        return []
    width = max(len(row) for row in rows)
    heads: Row = ["run", "number", "all t", *(f"quarter {number}" for number in range(1, width - 2))]
    chances = {run.spec.data.num_classes or 1 for run in study.runs if run.spec and not draws_samples(run.spec)}
    chance = f" Guessing is right in {' or '.join(f'{100 / classes:.3g}' for classes in sorted(chances))} % of cases."
    return [Table(heads, [[*row, *[""] * (width - len(row))] for row in rows]),
            Paragraph("The quarter of the chain that t is from: the first is the least noisy, and in the last hardly anything of "
                      f"an image is left.{chance if chances else ''}", "note")]


def _quarters_row(run: RunReport, metric: Metric) -> list[str | Cell]:
    return [run.name, metric.name, *(Cell(figure(value), value=value) for value in (metric.value, *metric.quarters))]


def problems_blocks(study: StudyReport) -> list[Block]:
    """Failed runs, in one row where they failed alike, and the remarks on broken files."""
    alike: dict[str, list[tuple[RunReport, Failure]]] = {}
    for run in study.runs:
        if run.failure and run.state == "failed":
            alike.setdefault(run.failure.signature, []).append((run, run.failure))
    rows = [_failures(failures) for failures in alike.values()]
    remarks = [f"{run.name}: {remark}" for run in study.runs for remark in dict.fromkeys(run.remarks)]
    return [Table(["run", "stage", "kind", "message", "what to do"], rows), Bullets(remarks)]


def _failures(failures: list[tuple[RunReport, Failure]]) -> Row:
    run, failure = failures[0]
    names = ", ".join(run.name for run, _ in failures[:LISTED]) + (", ..." if len(failures) > LISTED else "")
    return [Cell(f"{len(failures)} runs", names) if len(failures) > 1 else Cell(names), failure.stage, failure.kind,
            Cell(failure.message, wide=True), Cell(failure.next_step(run.run.path), wide=True)]
