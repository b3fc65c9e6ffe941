"""`iddpm run`: do every stage of every run of a spec on this machine, then print a table of the results."""

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from jobs.cost.bench.file import bench_to_plan_by
from jobs.cost.disk import check_disk
from jobs.cost.study_plan import plan_ahead
from jobs.errors import Busy, StageFailed, UserError
from jobs.kinds.start_fit import check_starts
from jobs.parallel.terminal import outlive_output
from jobs.quantities import plural
from jobs.run.directory import RunDir
from jobs.run.preflight import check_inputs
from jobs.run.progress import FOLLOWED, announce, duration, end
from jobs.run.records import EvaluationFile
from jobs.run.start_weights import still_to_start
from jobs.run.study.freezing import freeze
from jobs.run.study.study_file import left_note
from jobs.run.waiting import waits_for
from jobs.spec.kinds import draws_samples, stages_of
from jobs.spec.reading.file import load
from jobs.spec.reading.sweep import Study
from jobs.spec.stages import STAGES
from jobs.storage.files import read_json
from jobs.storage.typed import read_record
from slurm.cli.console import console
from slurm.cli.stopped import STOPPED
from slurm.launch.local import Interrupted, run_locally

FAILED = 1


def run_study(spec: Path, overrides: Sequence[str], runs_folder: Path, only: str | None) -> int:
    """Do all stages, or `only` one, of all runs. Returns the exit status: 0, 1 (a run failed), 2 (refused), 130 (stopped).

    A run that fails does not stop the others.
    """
    outlive_output()
    study = load(spec, overrides)
    specs = {run.name: run.spec for run in study.runs}
    check_inputs(list(specs.values()))
    check_starts(study, still_to_start(study.runs, runs_folder / study.name))
    check_disk(specs, runs_folder / study.name)
    print_notes(study, runs_folder)
    runs = freeze(study, runs_folder)
    print(f"{study.name}: {plural(len(runs), 'run')} in {runs_folder / study.name}", flush=True)
    if planned := plan_ahead(study, runs_folder / study.name, bench_to_plan_by(None), 0):
        print(planned, flush=True)
    status, states = 0, dict[Path, str]()
    for run in runs:
        if states.get(run.trainer.path) == "failed" and run.shares and not run.is_done(STAGES[0]):
            print(f"{run.path.name}: left out, since the training failed that it shares with {run.shares}", flush=True)
            states[run.path] = "failed"
            continue
        try:
            for stage in stages_of(run.spec) if only is None else (only,):
                os.environ[FOLLOWED] = "1" if only is None and stage != STAGES[-1] else ""
                _do_with_named_runs(run, stage)
        except (UserError, StageFailed) as error:
            print(f"{run.path.name}: {error}", flush=True)
            states[run.path] = "busy" if isinstance(error, Busy) else "failed"
            status = 2 if isinstance(error, UserError) else FAILED
        except Interrupted as stopped:
            print(stopped, flush=True)
            return STOPPED
        except KeyboardInterrupt:  # between two stages
            print("stopped; run again to go on", flush=True)
            return STOPPED
    runs = [run for run in runs if run.spec_file.is_file()]  # `iddpm rm` may have removed others meanwhile
    if not runs:
        return status
    print_summary(runs, states)
    page = write_report(runs_folder / study.name)
    print_settings(page.with_suffix(".json"))
    print(f"report       {page}")
    return status


def print_notes(study: Study, runs_folder: Path) -> None:
    """Print what a user should know about the spec, and about runs that it no longer has."""
    for note in filter(None, [*study.notes, left_note(study, runs_folder)]):
        print(f"note: {note}", flush=True)


def write_report(study: Path) -> Path:
    from jobs.report.write import report  # takes a second to load
    return report(study)


def run_one_stage(path: Path, stage: str) -> int:
    """Do one stage of the run in the folder `path`. Returns the exit status: 0, or 130 after Ctrl-C."""
    outlive_output()
    run = RunDir(path)
    run.check_has(stage)
    try:
        _do(run.trainer if stage == STAGES[0] else run, stage)
    except Interrupted as stopped:
        print(stopped, flush=True)
        return STOPPED
    except KeyboardInterrupt:  # before the stage started
        print("stopped; run again to go on", flush=True)
        return STOPPED
    return 0


def _do_with_named_runs(run: RunDir, stage: str) -> None:
    """Do `stage` of `run`, and before it the stages of other runs of the study that it waits for.

    The training of a run that shares one is that of its trainer.
    """
    if stage == STAGES[0] and run.shares:
        if not run.is_done(stage):
            _do_with_named_runs(run.trainer, stage)
        print(f"{run.path.name:<9} {stage:<9} shared with {run.shares}", flush=True)
        return
    for reference, other in waits_for(run, stage):
        if reference.in_study:
            for earlier in STAGES[:STAGES.index(reference.needs) + 1]:
                if other.has_stage(earlier):
                    _do_with_named_runs(other, earlier)
    _do(run, stage)


def _do(run: RunDir, stage: str) -> None:
    label = f"{run.path.name:<9} {stage:<9}"
    if not run.has_stage(stage):  # --only, in a study of several kinds
        print(f"{label} not a stage of kind {run.spec.kind}", flush=True)
        return
    if run.is_done(stage):
        print(f"{label} done before", flush=True)
        return
    began = time.monotonic()
    with run.exclusively():  # a busy run raises here, before processes are started
        announce(run.progress, stage)
    try:
        run_locally(run, stage)
    finally:
        end(run.progress)
    print(f"{label} done in {duration(time.monotonic() - began)}", flush=True)


def gather_run(path: Path) -> None:
    """Gather the chunks of the run in the folder `path` into samples.h5."""
    from jobs.sampling import gather
    run = RunDir(path)
    run.check_has("sample")
    if run.is_done("sample"):
        print(f"{run.samples_h5}: done before")
        return
    gather.gather_run(run)
    print(run.samples_h5)


def print_summary(runs: Sequence[RunDir], states: dict[Path, str]) -> None:
    """Print one row a run, with its metrics, then the paths of the results. `states`: of the runs that failed or are busy."""
    evaluations = {run.path: read_record(run.evaluation, EvaluationFile) for run in runs if run.is_done("evaluate")}
    names = list(dict.fromkeys(name for result in evaluations.values() for name in result.headline))
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("run", "state", "samples"):
        table.add_column(column, overflow="fold")
    for name in names:  # without the features, "fid (pixels)": they are named once, below
        table.add_column(name.partition(" (")[0], justify="right")
    for run in runs:
        numbers = evaluations.get(run.path, EvaluationFile()).headline
        state = states.get(run.path) or ("done" if run.is_done("evaluate") else "not evaluated")
        values = ["" if (value := numbers.get(name)) is None else f"{value:.4g}" for name in names]
        table.add_row(run.path.name, state, _samples(run), *values)
    console().print(table)
    for result in evaluations.values():
        if result.features and (text := result.features.get("note")):
            print(f"features: {text}")
            break
    study = runs[0].path.parent
    for run in runs[:3]:
        if _samples(run):
            print(f"pictures     {run.samples_png}, {run.samples / 'samples-grid.png'}\nsamples      {run.samples_h5}")
    if len(runs) > 3 and any(map(_samples, runs[3:])):
        print("... and more in samples/ of each run")
    print(f"TensorBoard  {command_beside_python('tensorboard')} --logdir {study}")


def _samples(run: RunDir) -> str:
    """Return the number of the run's samples; empty where it has none yet, or draws none."""
    return str(run.spec.sample.num_samples) if draws_samples(run.spec) and run.is_done("sample") else ""


def print_settings(report: Path) -> None:
    """Print a row for each setting with several seeds, from report.json: the mean ± the standard deviation of each metric."""
    settings = [setting for setting in read_json(report)["settings"] if len(setting["runs"]) > 1]
    names = list(dict.fromkeys(name for setting in settings for name in setting["metrics"]))
    if not names:
        return
    table = Table("over seeds", "runs", *(name.partition(" (")[0] for name in names), box=box.SIMPLE_HEAD)
    for setting in settings:
        table.add_row(setting["name"], str(len(setting["runs"])), *(_mean(setting["metrics"].get(name)) for name in names))
    console().print(table)


def _mean(metric: dict | None) -> str:
    if metric is None:
        return ""
    deviation = f" ± {metric['standard_deviation']:.2g}" if metric["standard_deviation"] is not None else ""
    return f"{metric['mean']:.4g}{deviation} (n = {metric['n']})"


def command_beside_python(name: str) -> str:
    """The way to call an installed command: its name if the shell finds it, else its path in this environment."""
    if shutil.which(name):
        return name
    path = Path(sys.executable).parent / name
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
