"""The weights that training starts from: `train.init_from`, of which a run keeps the file's path and sha256."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jobs.errors import UserError
from jobs.run.directory import RunDir, average_of, weights_name
from jobs.run.provenance import recorded_provenance
from jobs.spec.reading.sweep import Run
from jobs.spec.sections import Spec
from jobs.storage.files import sha256_of_file, write_json

RECORD = "init_from"
"""In provenance.json."""


def start_file(spec: Spec) -> Path | None:
    """Return the file that train.init_from means; None where training starts from random weights.

    A folder stands for the average that its run samples with. Raises UserError where there is no such file.
    """
    if spec.train.init_from is None:
        return None
    given = Path(spec.train.init_from)
    file = _file_of_run(given) if given.is_dir() else given
    if not file.is_file():
        raise UserError(f"train.init_from: {file}: no such file; it names a .safetensors or .pt file, a run's folder, or that of "
                        "one of its checkpoints")
    return file


def _file_of_run(folder: Path) -> Path:
    """Return the file of weights in the folder of a run, whose training must be finished, or in that of a checkpoint."""
    if (folder / "manifest.json").is_file():
        return folder / _sampled_with(RunDir(folder.resolve().parents[1]))
    if not (folder / "spec.yaml").is_file():
        raise UserError(f"train.init_from: {folder}: the folder of neither a run nor a checkpoint")
    run = RunDir(folder)
    if not run.is_done("train"):
        raise UserError(f"train.init_from: {folder}: its training is not finished; name the folder of one of its checkpoints, "
                        f"such as {run.checkpoint_folder(run.trained_steps() or run.spec.train.save_interval)}")
    return run.checkpoint_folder(run.spec.train.iterations) / _sampled_with(run)


def _sampled_with(run: RunDir) -> str:
    if (sigma_rel := run.spec.sample.ema_sigma_rel) is not None:
        raise UserError(f"train.init_from: {run.path} samples with ema_sigma_rel {sigma_rel}, which no file has; `iddpm export "
                        f"{run.path} OUT.safetensors` writes one to name")
    return weights_name(average_of(run.spec.sample.ema_rate))


def origin(spec: Spec) -> dict[str, Any]:
    """Return the entry of provenance.json for the weights that training starts from; empty for random ones."""
    file = start_file(spec)
    return {} if file is None else {RECORD: {"file": str(file.resolve()), "sha256": _sha256(file.resolve())}}


@cache
def _sha256(file: Path) -> str:
    """Return the sha256 of a file; once for all runs of a sweep."""
    return sha256_of_file(file)


def recorded_start(run: RunDir) -> Path | None:
    """Return the file of weights that `run` starts from, checked against the run's record; None for random ones.

    Raises UserError where the file is gone, or is not the one that the run was made with.
    """
    if run.spec.train.init_from is None:
        return None
    recorded = recorded_provenance(run.path)
    try:
        then, sha256 = Path(recorded[RECORD]["file"]), str(recorded[RECORD]["sha256"])
    except (KeyError, TypeError):  # the file was lost, or damaged
        write_json(run.path / "provenance.json", recorded | origin(run.spec))
        return start_file(run.spec)
    found = then if then.is_file() else start_file(run.spec)
    if found is None or sha256_of_file(found) != sha256:
        raise UserError(f"{found}: not the file that {run.path} was made to start from (train.init_from; its sha256 then: "
                        f"{sha256[:16]}...); restore that file, or give the run another name")
    return found


def still_to_start(runs: Sequence[Run], study: Path) -> list[Run]:
    """Return the runs whose training will read its train.init_from: those without a checkpoint."""
    return [run for run in runs if run.spec.train.init_from is not None
            and not RunDir(study / run.name).checkpoint_folders()]
