"""`iddpm import` and `iddpm export`: read weights from other code, and write weights for other code. Both load torch."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.run.study.freezing import freeze


def import_run(checkpoint: Path, spec: Path, overrides: Sequence[str], runs_folder: Path, step: int | None) -> None:
    """Make the run of `spec` with the weights in `checkpoint`. `step`: their training step, where the user says it.

    Raises UserError, before anything is written, for a sweep, and for weights that do not fit the network or are of another
    step than train.iterations.
    """
    from jobs.kinds.foreign_settings import settled
    from jobs.kinds.foreign_weights import open_weights, read_state_dict
    from jobs.kinds.weight_files import check_step, import_weights
    read = read_state_dict(checkpoint)
    study, told = settled(checkpoint, read, spec, overrides)
    last = study.runs[0].spec.train.iterations
    if earlier := [step for step in study.runs[0].spec.sample.at if step not in ("last", last)]:
        raise UserError(f"{spec}: sample.at names step {', '.join(map(str, earlier))}, but an imported run has weights of its "
                        f"last step alone, {last}; give sample.at=[last]")
    if study.runs[0].spec.train.ema_sigma_rel:
        raise UserError(f"{spec}: train.ema_sigma_rel: such averages begin with the first step of training and have snapshots on "
                        "the way, and imported weights have neither; leave train.ema_sigma_rel out")
    found = open_weights(checkpoint, study.runs[0].spec, read)
    notes = [f"{checkpoint}: {note}" for note in found.notes] + check_step(found, checkpoint, study.runs[0].spec, step)
    run = freeze(study, runs_folder)[0]
    import_weights(run, found, checkpoint, step)
    for note in notes:
        print(f"note: {note}")
    if told:
        print(f"note: {checkpoint} tells {', '.join(told)}; give them to every later command, or write them in {spec}")
    elsewhere = [] if runs_folder == Path("runs") else ["--runs", str(runs_folder)]
    again = shlex.join(["iddpm", "run", str(spec), *overrides, *told, *elsewhere])
    print(f"{run.path}: imported; `{again}` samples and evaluates it")


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
