"""Read everything that a study's report says, once."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jobs.errors import UserError
from jobs.report.answer import answer, cautions, question
from jobs.report.board import BoardLog, read_board
from jobs.report.cost import StageTime, stage_times
from jobs.report.effects import Effect, effects, swept_fields
from jobs.report.ranking import metric_names, ranked
from jobs.report.run import RunReport, read_run, read_terms
from jobs.run.study_file import has_left
from jobs.storage.files import read_json

SHOWN = 8  # runs with curves and pictures; the tables have all runs


@dataclass(eq=False)
class StudyReport:
    name: str
    folder: Path
    source: str
    runs: list[RunReport]
    fields: dict[str, list[str]]
    """Values of each swept field, by dotted key."""
    metrics: list[str]
    """Names of the metrics that any run has."""
    effects: list[Effect]
    question: str
    answer: list[str]
    cautions: list[str]
    shown: list[RunReport]
    """The runs with curves and pictures. Each has a spec."""
    times: dict[str, dict[str, StageTime]]
    """By run and stage."""
    logs: dict[str, BoardLog] = field(default_factory=dict)
    """TensorBoard logs of the shown runs that have one, by run."""
    bounds: dict[str, np.ndarray] = field(default_factory=dict)
    """Terms of the variational bound [T] of the shown runs that have them, by run."""

    @property
    def main(self) -> RunReport | None:
        """The run that stands for the study: the best by the first metric, or else the first that has a spec."""
        best = ranked([run for run in self.runs if not run.left], self.metrics[0]) if self.metrics else []
        return next((run for run in [*best, *self.runs] if run.spec), None)


def read_study(folder: Path) -> StudyReport:
    """Read the study in `folder`. Raises UserError for a folder without a study; faults of single runs become their remarks."""
    name, source, runs = _read_runs(folder)
    compared = [run for run in runs if not run.left]
    found, shown = effects(compared), _worth_showing(runs)
    logs = {run.name: log for run in shown if (log := _read_log(run))}
    times = {run.name: stage_times(run, logs.get(run.name)) for run in runs}
    bounds = {run.name: terms["vb"] for run in shown if (terms := read_terms(run))}
    return StudyReport(name, folder, source, runs, swept_fields(compared), metric_names(runs), found, question(compared),
                       answer(compared, found), cautions(compared), shown, times, logs, bounds)


def _read_runs(folder: Path) -> tuple[str, str, list[RunReport]]:
    """Return the study's name, the path of its spec, and its runs."""
    file = folder / "study.json"
    if not file.is_file():
        raise UserError(f"{folder}: not a study's directory (there is no study.json in it); studies are in runs/")
    study = read_json(file)
    try:
        runs = [read_run(folder / run, dict(entry.get("differs", {})), has_left(entry)) for run, entry in study["runs"].items()]
        return str(study["name"]), str(study.get("source", "")), runs
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{file}: not as `iddpm run` and `iddpm submit` write it ({error!r})") from error


def _read_log(run: RunReport) -> BoardLog | None:
    folder = run.run.tensorboard
    return run.read(folder, lambda: read_board(folder), None) if folder.is_dir() else None


def _worth_showing(runs: list[RunReport]) -> list[RunReport]:
    """Return at most SHOWN of the runs that have started, in order: the best by each metric, and others evenly spaced."""
    started = [run for run in runs if run.spec and run.state != "not started"]
    if len(started) <= SHOWN:
        return started
    best = [run for name in metric_names(started) for run in ranked(started, name)[:2]]
    spaced = [started[index] for index in np.linspace(0, len(started) - 1, SHOWN).round().astype(int)]
    chosen = list(dict.fromkeys([*best[:SHOWN // 2], *spaced]))[:SHOWN]
    return [run for run in started if run in chosen]
