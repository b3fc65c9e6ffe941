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


def export_run(run: Path, output: Path, ema_rate: float | None, raw: bool) -> None:
    """Write weights of `run` to `output`: the average of `ema_rate` (None: the spec's sample.ema_rate), or the raw ones."""
    from jobs.kinds.weight_files import export_weights
    if raw and ema_rate is not None:
        raise UserError("--raw and --ema-rate exclude each other")
    directory = RunDir(run)
    rate = None if raw else ema_rate if ema_rate is not None else directory.spec.sample.ema_rate
    export_weights(directory, output, rate)
    print(output)
