"""Weights from and to other code: the plain .pt state dict of the reference, and .safetensors."""

import io
import re
import warnings
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from jobs.errors import UserError
from jobs.kinds.protocol import model_of
from jobs.run.checkpoints import Weights, average_of, final_checkpoint, load_weights, save_checkpoint, save_weights
from jobs.run.directory import RunDir
from jobs.spec.kinds import MODEL
from jobs.spec.reading.frozen import difference, parse_frozen
from jobs.spec.sections import Spec
from jobs.storage.files import atomic_path, read_json, sha256_of_file, write_json


def read_weights(path: Path, spec: Spec) -> Weights:
    """Return the weights in a .pt or .safetensors file for the network of `spec`: float32, on the CPU. Runs no code in the file.

    Raises UserError where the file is no state dict, or has keys or shapes that do not fit the network.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about old pickle protocols
                weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle makes torch raise almost anything
        raise UserError(f"{path}: not a plain state dict of tensors ({_reason(error)})") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f"{path}: not a plain state dict of tensors, but {_describe(weights)}")
    # Copies, because tensors of a file may share memory, which safetensors refuses to write.
    weights = {key: value.detach().to(torch.float32, copy=True) for key, value in weights.items()}
    load_weights(model_of(spec).network(spec), weights, path)
    if path.suffix == ".safetensors":
        _check_recorded_spec(path, spec)
    return weights


def _check_recorded_spec(path: Path, spec: Spec) -> None:
    """Compare `spec` with the one in the metadata of a .safetensors file, where the file has one: shapes do not show all.

    Raises UserError where settings that the weights depend on differ.
    """
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("spec")
    if text is None:
        return
    recorded = parse_frozen(text, f"{path}, its metadata")
    not_the_network = ("name", "data.path", "data.random_flip", "model.dropout", "diffusion.loss", "train", "sample",
                       "evaluate", "resources")
    if changed := difference(recorded, spec, ignore=not_the_network):
        raise UserError(f"{path}: the spec inside differs from the one given:\n  " + "\n  ".join(changed))


def _reason(error: Exception) -> str:
    """Return the useful part of a reader's message; torch's own message advises to run the code in the file."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it holds Python objects such as {found[1]}; loading them could run any code, so that is not done"
    lines = str(error).strip().splitlines()
    return lines[0] if lines and not isinstance(error, UnpicklingError) else "damaged, or of another format"


def _describe(value: object) -> str:
    """Return the type of an object, and the first keys of a dict."""
    return f"a dict with {', '.join(map(str, list(value)[:5]))}" if isinstance(value, dict) else type(value).__name__


def import_weights(run: RunDir, weights: Weights, source: Path) -> None:
    """Save `weights`, read from the file `source`, as the final checkpoint of the run: as trained, and as every average.

    Raises UserError where the run has a checkpoint.
    """
    if run.trained_steps():
        raise UserError(f"{run.path}: has a checkpoint of step {run.trained_steps()}; import into a new run (name=...)")
    origin = {"file": str(source.resolve()), "sha256": sha256_of_file(source)}
    write_json(run.path / "provenance.json", read_json(run.path / "provenance.json") | {"imported": origin})
    averages = {average: weights for average in (None, *map(average_of, run.spec.train.ema_rate))}
    save_checkpoint(run, run.spec.train.iterations, {MODEL: averages}, None)


def export_weights(run: RunDir, output: Path, ema_rate: float | None) -> None:
    """Write the run's final weights as .safetensors with the spec in the metadata, or as .pt that the reference loads.

    `ema_rate`: which average; None: the weights as trained. Raises UserError for any other name, or unfinished training.
    """
    if output.suffix not in (".safetensors", ".pt"):
        raise UserError(f"{output}: the name must end in .safetensors or .pt")
    checkpoint = final_checkpoint(run)
    weights = checkpoint.weights(average_of(ema_rate))
    with torch.device("meta"):
        network = model_of(run.spec).network(run.spec)
    # safetensors sorts its keys; the reference's order is the network's.
    ordered = {key: weights[key] for key in network.state_dict()}
    with atomic_path(output) as temporary:
        if output.suffix == ".pt":
            content = io.BytesIO()  # written by Python, so that a full disk raises OSError
            torch.save(ordered, content)
            temporary.write_bytes(content.getbuffer())
        else:
            save_weights(temporary, ordered, run.spec, {"step": str(checkpoint.step), "ema_rate": str(ema_rate or "")})
