"""Read everything that a study's report says, once."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from jobs.data.dataset import ImageData
from jobs.errors import UserError
from jobs.report.board import BoardLog, add_events, board_files
from jobs.report.cost import StageTime, stage_times
from jobs.report.families.members import Member, members_of
from jobs.report.families.sentences import families_answer, families_question
from jobs.report.memorisation import Memorisation, memorisations, training_data
from jobs.report.run import RunReport, read_run, read_terms
from jobs.report.samplings.comparisons import Comparison, comparisons
from jobs.report.samplings.entries import sampled
from jobs.report.samplings.guided import Guided, guided
from jobs.report.samplings.sentences import guidance_verdicts, verdicts
from jobs.report.samplings.ways import Way, ways_of
from jobs.report.verdicts.answer import answer, cautions, question
from jobs.report.verdicts.effects import Effect, effects
from jobs.report.verdicts.points import Point, points_of, swept_fields
from jobs.report.verdicts.ranking import metric_names, ranked
from jobs.run.study.study_file import study_as_found
from jobs.spec.keys import keys_of, value_at
from jobs.spec.kinds import draws_samples
from jobs.storage.disk_errors import why_missing

SAID = 4  # sentences on samplings in the answer; their section has all
SHOWN = 8  # runs with curves and pictures; the tables have all runs


@dataclass(eq=False)
class StudyReport:
    name: str
    folder: Path
    source: str
    runs: list[RunReport]
    points: list[Point]
    """The settings of the sweep, without runs that left it."""
    fields: dict[str, list[str]]
    """Values of each swept field, by dotted key, but for whole sections, which fit into no column."""
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
    ways: dict[str, list[Way]]
    """All ways to sample, by what the sweep varies in training, in words; without runs that left the sweep."""
    comparisons: list[Comparison]
    """Those of `ways` that should give one distribution."""
    guided: list[Guided]
    """Those of `ways` that have guidance, as lines over its scale."""
    logs: dict[str, BoardLog] = field(default_factory=dict)
    """TensorBoard logs of the shown runs that have one, by run."""
    bounds: dict[str, np.ndarray] = field(default_factory=dict)
    """Terms of the variational bound [T] of the shown runs that have them, by run."""
    data: dict[str, ImageData] = field(default_factory=dict)
    """The training data of the shown runs, where they can be opened on this machine, by run."""
    memorised: dict[str, Memorisation] = field(default_factory=dict)
    """How near the samples of shown runs are to their training images, by run."""
    members: list[Member] = field(default_factory=list)
    """The families side by side, where there are several."""

    @property
    def repeated(self) -> bool:
        """Whether a setting has several seeds."""
        return any(point.repeated for point in self.points)

    @property
    def main(self) -> RunReport | None:
        """The run that stands for the study: the best by the first metric, or else the first that has a spec; one that draws
        samples, if any does."""
        best = ranked([run for run in self.runs if not run.left], self.metrics[0]) if self.metrics else []
        known = [run for run in [*best, *self.runs] if run.spec]
        return next((run for run in known if draws_samples(run.known_spec)), next(iter(known), None))


def read_study(folder: Path) -> StudyReport:
    """Read the study in `folder`. Raises UserError for a folder without a study; faults of single runs become their remarks."""
    name, source, runs, remarks = _read_runs(folder)
    compared = points_of([run for run in runs if not run.left])
    found, shown = effects(compared), _worth_showing(runs)
    logs = {run.name: log for run in shown if (log := _read_log(run))}
    times = {run.name: stage_times(run, logs.get(run.name)) for run in runs}
    bounds = {run.name: terms["vb"] for run in shown if (terms := read_terms(run))}
    fields = _in_columns(swept_fields([run for point in compared for run in point.runs]), runs)
    ways = ways_of(sampled([run for run in runs if not run.left], times))
    sampling, guidance, data = comparisons(ways), guided(ways), training_data(shown)
    members = members_of(compared, ways, logs, times)
    asked = families_question(members) if members else question(_asked_about(compared))
    return StudyReport(name, folder, source, runs, compared, fields, metric_names(runs), found, asked,
                       [*_answer(members, compared, found), *verdicts(sampling)[:SAID], *guidance_verdicts(guidance)[:SAID]],
                       [*remarks, *cautions(compared)], shown, times,
                       ways, sampling, guidance, logs, bounds, data, memorisations(shown, data), members)


def _answer(members: list[Member], points: list[Point], found: list[Effect]) -> list[str]:
    """Families are compared at their best samplings; then the settings, where the sweep crosses some."""
    said = families_answer(members)
    return said if said and not found else [*said, *answer(points, found)]


def _in_columns(fields: dict[str, list[str]], runs: Sequence[RunReport]) -> dict[str, list[str]]:
    """Return the swept fields without those that are a whole section in any run: the names of runs say these."""
    return {key: values for key, values in fields.items()
            if not any(isinstance(run.differs.get(key), Mapping) for run in runs)}


def _read_runs(folder: Path) -> tuple[str, str, list[RunReport], list[str]]:
    """Return the study's name, the path of its spec, its runs, and remarks on a broken study.json."""
    if not os.path.lexists(folder / "study.json"):
        raise UserError(why_missing(folder / "study.json")
                        or f"{folder}: not a study's directory (there is no study.json in it); studies are in runs/")
    found, remarks = study_as_found(folder)
    runs = [read_run(folder / name, entry.differs, entry.left) for name, entry in found.runs.items()]
    if remarks:  # the swept settings are not known, but the specs are
        _find_differences(runs)
    _fill_differences(runs)
    return found.name or folder.resolve().name, found.source, runs, remarks


def _find_differences(runs: list[RunReport]) -> None:
    """Give each run the settings in which the specs differ."""
    specs = [run.spec for run in runs if run.spec]
    keys = dict.fromkeys(key for spec in specs for key in keys_of(type(spec)))
    swept = [key for key in keys if any(value_at(spec, key) != value_at(specs[0], key) for spec in specs)]
    for run in runs:
        run.differs = {key: value_at(run.spec, key) for key in swept} if run.spec else {}


def _asked_about(points: list[Point]) -> list[Point]:
    """Return the points that draw samples, if any does: in a study of several kinds a classifier serves the others."""
    return [point for point in points if (spec := point.runs[0].spec) and draws_samples(spec)] or points


def _fill_differences(runs: list[RunReport]) -> None:
    """Give each run its value of every key that another run sets: the points of a `list:` may set different keys."""
    swept = dict.fromkeys(key for run in runs for key in run.differs)
    for run in runs:
        if run.spec and len(swept) > len(run.differs):
            run.differs = {key: run.differs[key] if key in run.differs else value_at(run.spec, key) for key in swept}


def _read_log(run: RunReport) -> BoardLog | None:
    log = BoardLog()
    files: list[Path] = run.read(run.run.tensorboard, lambda: board_files(run.run.tensorboard), [])
    for file in files:
        run.read(file, partial(add_events, log, file), None)
    return log if files else None


def _worth_showing(runs: list[RunReport]) -> list[RunReport]:
    """Return at most SHOWN of the runs that have started, in order: the best by each metric, and others evenly spaced.

    Where these are too many, one seed stands for each setting.
    """
    started = [run for run in runs if run.spec and run.state != "not started"]
    if len(started) > SHOWN:
        started = [next((run for run in point.runs if run.metrics), point.runs[0]) for point in points_of(started)]
    if len(started) <= SHOWN:
        return started
    best = [run for name in metric_names(started) for run in ranked(started, name)[:2]]
    spaced = [started[index] for index in np.linspace(0, len(started) - 1, SHOWN).round().astype(int)]
    chosen = list(dict.fromkeys([*best[:SHOWN // 2], *spaced]))[:SHOWN]
    return [run for run in started if run in chosen]
