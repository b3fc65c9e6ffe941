"""`iddpm import` and `iddpm export`: read weights from other code, and write weights for other code. Both load torch."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.run.study.freezing import freeze
from jobs.spec.keys import value_at
from jobs.spec.kinds import draws_samples
from jobs.spec.samplings import guided
from jobs.spec.sections import Spec


def import_run(source: Path, spec: Path, overrides: Sequence[str], runs_folder: Path, step: int | None) -> None:
    """Make the run of `spec` with the weights in the file `source`, or with the whole training state in the folder `source`.

    `step`: the training step of the weights, where the user says it; of a folder, the step to take. Raises UserError, before
    anything is written, for a sweep, for settings that no weights tell and that the spec does not write, and for weights that do
    not fit.
    """
    if source.is_dir():
        run, told, notes = _import_folder(source, spec, overrides, runs_folder, step)
        goal = f"trains on from step {run.trained_steps()}"
    else:
        run, told, notes = _import_file(source, spec, overrides, runs_folder, step)
        goal = "samples and evaluates it" if draws_samples(run.spec) else "evaluates it"
    for note in notes:
        print(f"note: {note}")
    if told:
        print(f"note: {source} tells {', '.join(told)}; give them to every later command, or write them in {spec}")
    elsewhere = [] if runs_folder == Path("runs") else ["--runs", str(runs_folder)]
    again = shlex.join(["iddpm", "run", str(spec), *overrides, *told, *elsewhere])
    print(f"{run.path}: imported; `{again}` {goal}")


def _import_file(file: Path, spec: Path, overrides: Sequence[str], runs_folder: Path,
                 step: int | None) -> tuple[RunDir, list[str], list[str]]:
    """Return the run, the settings that the file tells, as overrides, and notes for the user."""
    from jobs.kinds.foreign_settings import settled
    from jobs.kinds.foreign_weights import open_weights, read_state_dict
    from jobs.kinds.weight_files import check_step, import_weights
    read = read_state_dict(file)
    study, told = settled(file, read, spec, overrides)
    _check_goals(spec, study.runs[0].spec, study.runs[0].spec.train.iterations)
    found = open_weights(file, study.runs[0].spec, read)
    notes = [f"{file}: {note}" for note in found.notes] + check_step(found, file, study.runs[0].spec, step)
    run = freeze(study, runs_folder)[0]
    import_weights(run, found, file, step)
    return run, told, notes


def _import_folder(folder: Path, spec: Path, overrides: Sequence[str], runs_folder: Path,
                   step: int | None) -> tuple[RunDir, list[str], list[str]]:
    """Return the run, the settings that the files in the folder tell, as overrides, and notes for the user."""
    from jobs.kinds.foreign_settings import settled
    from jobs.kinds.foreign_weights import read_state_dict
    from jobs.training.foreign_run import find_run, import_training, read_optimizer, told_by_run, training_of
    found, notes = find_run(folder, step)
    read, optimizer = read_state_dict(found.model), read_optimizer(found.optimizer)
    study, told = settled(found.model, read, spec, overrides, partial(told_by_run, found, optimizer))
    resolved = study.runs[0].spec
    if found.step > resolved.train.iterations:
        raise UserError(f"{folder}: its training is at step {found.step}, but train.iterations is {resolved.train.iterations}; "
                        f"give train.iterations={found.step} or more, or --step for an earlier one")
    _check_goals(spec, resolved, found.step)
    state = training_of(resolved, folder, found, read, optimizer)
    run = freeze(study, runs_folder)[0]
    import_training(run, folder, found, *state)
    return run, told, notes


def _check_goals(spec: Path, resolved: Spec, first: int) -> None:
    """Raise UserError where the spec asks for weights from before step `first`, the first one of an imported run."""
    sampled = [step for step in value_at(resolved, "sample.at") or [] if step != "last"]
    guiding = [guide.step for _, guide, _ in guided(resolved) if guide.run is None and guide.step]
    for key, steps, instead in (("sample.at", sampled, "give sample.at=[last]"),
                                ("guidance.at", guiding, "name another run (guidance.run)")):
        if earlier := [step for step in steps if step < first]:
            raise UserError(f"{spec}: {key} names step {', '.join(map(str, earlier))}, but an imported run has no weights "
                            f"before its step {first}; {instead}")
    if value_at(resolved, "train.ema_sigma_rel"):
        raise UserError(f"{spec}: train.ema_sigma_rel: such averages begin with the first step of training and have snapshots on "
                        "the way, and imported weights have neither; leave train.ema_sigma_rel out")


def export_run(run: Path, output: Path, ema_rate: float | None, sigma_rel: float | None, raw: bool, step: int | None) -> None:
    """Write weights of `run` to `output`: the average of one of the rates, or the raw ones; by default as the spec samples.

    `step`: of which checkpoint; None: the last one.
    """
    from jobs.kinds.weight_files import export_weights
    if raw + (ema_rate is not None) + (sigma_rel is not None) > 1:
        raise UserError("--raw, --ema-rate and --ema-sigma-rel exclude each other")
    directory = RunDir(run)
    sample = directory.spec.sample
    if not raw and ema_rate is None and sigma_rel is None:
        ema_rate, sigma_rel = sample.ema_rate, sample.ema_sigma_rel
    export_weights(directory, output, ema_rate, sigma_rel=sigma_rel, step=step)
    print(output)
