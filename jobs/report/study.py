"""Everything about a study that its report tells, read once."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jobs.errors import UserError
from jobs.report.answer import Effect, answer, cautions, effects, metric_names, question, ranked, swept_fields
from jobs.report.board import BoardLog, read_board
from jobs.report.cost import StageTime, stage_times
from jobs.report.page.figures import Style, styles
from jobs.report.run import RunReport, read_run, read_terms
from jobs.storage.files import read_json

SHOWN = 8  # runs with curves and pictures; the tables have all


@dataclass(eq=False)
class StudyReport:
    name: str
    folder: Path
    source: str
    runs: list[RunReport]
    fields: dict[str, list[str]]
    """What is swept: dotted field -> values."""
    metrics: list[str]
    effects: list[Effect]
    question: str
    answer: list[str]
    cautions: list[str]
    shown: list[RunReport]
    drawn: dict[str, Style]
    """How each of `shown` is drawn."""
    times: dict[str, dict[str, StageTime]]
    """By run and stage."""
    logs: dict[str, BoardLog] = field(default_factory=dict)
    """TensorBoard of those of `shown` that have it."""
    bounds: dict[str, np.ndarray] = field(default_factory=dict)
    """Terms of the variational bound [T] of those of `shown` that have them."""

    @property
    def main(self) -> RunReport | None:
        """The run that stands for the study where one has to: the best by the first metric, else the first with a spec."""
        best = [run for name in self.metrics[:1] for run in ranked(self.runs, name)]
        return next((run for run in [*best, *self.runs] if run.spec), None)


def read_study(folder: Path) -> StudyReport:
    """Raises UserError where `folder` is not a study's; whatever is wrong with single runs becomes their remarks."""
    file = folder / "study.json"
    if not file.is_file():
        raise UserError(f"{folder}: not a study's directory (it has no study.json); they lie in runs/")
    study = read_json(file)
    try:
        name, source = str(study["name"]), str(study.get("source", ""))
        runs = [read_run(folder / run, dict(entry.get("differs", {}))) for run, entry in study["runs"].items()]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{file}: not what `iddpm run` or `iddpm submit` wrote ({error!r})") from error
    found = effects(runs)
    shown = _worth_showing(runs)
    logs = {}
    for run in shown:
        if run.run.tensorboard.is_dir():
            log = run.read(run.run.tensorboard, lambda run=run: read_board(run.run.tensorboard), None)
            logs |= {run.name: log} if log else {}
    times = {run.name: stage_times(run, logs.get(run.name)) for run in runs}
    bounds = {run.name: terms["vb"] for run in shown if (terms := read_terms(run))}
    return StudyReport(name, folder, source, runs, swept_fields(runs), metric_names(runs), found, question(runs),
                       answer(runs, found), cautions(runs), shown, styles(shown), times, logs, bounds)


def _worth_showing(runs: list[RunReport]) -> list[RunReport]:
    """At most SHOWN of those that have started, in their order: the best by each metric, and others evenly spaced."""
    started = [run for run in runs if run.spec and run.state != "not started"]
    if len(started) <= SHOWN:
        return started
    best = [run for name in metric_names(started) for run in ranked(started, name)[:2]]
    spaced = [started[place] for place in np.linspace(0, len(started) - 1, SHOWN).round().astype(int)]
    chosen = {run.name for run in list(dict.fromkeys([*best[:SHOWN // 2], *spaced]))[:SHOWN]}
    return [run for run in started if run.name in chosen]
