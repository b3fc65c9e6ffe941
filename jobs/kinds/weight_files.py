"""Runs from and to other code: the plain .pt state dict of the reference, and .safetensors."""

import io
from pathlib import Path

import torch

from diffusion.networks.null_class import without_null_class
from jobs.errors import UserError
from jobs.finite import not_finite
from jobs.kinds.foreign_weights import ForeignWeights
from jobs.kinds.protocol import model_of
from jobs.run.checkpoints import average_of, checkpoint_at, final_checkpoint, save_checkpoint, save_weights, weights_name
from jobs.run.directory import RunDir
from jobs.run.snapshots import power_average
from jobs.spec.averages import described, power_name
from jobs.spec.kinds import MODEL
from jobs.spec.sections import Spec
from jobs.storage.files import atomic_path, read_json, sha256_of_file, write_json


def import_weights(run: RunDir, found: ForeignWeights, source: Path, step: int | None = None) -> None:
    """Save the weights `found` in the file `source` as the final checkpoint of the run: as trained, and as every average.

    `step`: their training step as the user says it; None: as `found` says it. `check_step` has passed. Raises UserError where
    the run has a checkpoint.
    """
    if run.trained_steps():
        raise UserError(f"{run.path}: has a checkpoint of step {run.trained_steps()}; import into a new run (name=...)")
    origin = {"file": str(source.resolve()), "sha256": sha256_of_file(source), "step": found.step if step is None else step,
              "step_from": "--step" if step is not None else found.step_from, "ema_rate": found.ema_rate}
    write_json(run.path / "provenance.json", read_json(run.path / "provenance.json") | {"imported": origin})
    averages = {average: found.weights for average in (None, *map(average_of, run.spec.train.ema_rate))}
    save_checkpoint(run, run.spec.train.iterations, {MODEL: averages}, None)


def check_step(found: ForeignWeights, source: Path, spec: Spec, step: int | None = None) -> list[str]:
    """Return notes about the training step and the average of the weights in the file `source`.

    `step`: as the user says it. The last step of a run is train.iterations: raises UserError where the step is another one.
    """
    iterations, notes = spec.train.iterations, []
    known = found.step if step is None else step
    if known is None:
        notes.append(f"{source} does not say its training step; it is taken for train.iterations, {iterations}, and recorded as "
                     "unknown (--step N says the step)")
    elif known != iterations:
        by = "--step" if step is not None else found.step_from
        raise UserError(f"{source}: weights of training step {known} (by {by}), but train.iterations is {iterations}; give "
                        f"train.iterations={known}{'' if step is not None else f', or --step {iterations} if {by} is wrong'}")
    if found.ema_rate and found.ema_rate not in map(average_of, spec.train.ema_rate):
        notes.append(f"{source} is an average of rate {found.ema_rate}, which is not among train.ema_rate; the run has it under "
                     "its own rates")
    return notes


def export_weights(run: RunDir, output: Path, ema_rate: float | None, *, sigma_rel: float | None = None,
                   step: int | None = None) -> None:
    """Write weights of the run as .safetensors with the spec in the metadata, or as .pt that the reference loads.

    `ema_rate`: which average; None: the weights as trained. `sigma_rel`: a power-function average of this length instead.
    `step`: of which checkpoint; None: the last one, of finished training. Raises UserError for any other name, averages and
    checkpoints that are not there, and weights that are not finite.
    """
    if output.suffix not in (".safetensors", ".pt"):
        raise UserError(f"{output}: the name must end in .safetensors or .pt")
    checkpoint = final_checkpoint(run) if step is None else checkpoint_at(run, step, "--at")
    average = average_of(ema_rate) if sigma_rel is None else power_name(sigma_rel)
    weights = checkpoint.weights(average) if sigma_rel is None else power_average(run, checkpoint, sigma_rel)
    if problem := not_finite(weights):
        raise UserError(f"{checkpoint.path / weights_name(average)}: {problem}")
    with torch.device("meta"):
        network = model_of(run.spec).network(run.spec)
    # safetensors sorts its keys; the reference's order is the network's.
    ordered = without_null_class(network, {key: weights[key] for key in network.state_dict()})
    with atomic_path(output) as temporary:
        if output.suffix == ".pt":
            content = io.BytesIO()  # written by Python, so that a full disk raises OSError
            torch.save(ordered, content)
            temporary.write_bytes(content.getbuffer())
        else:
            save_weights(temporary, ordered, run.spec, {"step": str(checkpoint.step), **described(average)})
