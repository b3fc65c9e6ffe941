"""Checkpoints: whole or absent, self-describing; the newest good one is found again.

checkpoints/step-00001000/
    manifest.json             step; updates skipped so far; sha256 and bytes of every other file
    model.safetensors         the weights as trained
    ema-0.9999.safetensors    one for each averaging rate
    NETWORK.safetensors, NETWORK-ema-0.9999.safetensors    of the other networks of a kind that has several
    training.pt               optimisers, gradient scalers, what the kind learned; absent in imported checkpoints
"""

import contextlib
import hashlib
import io
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from jobs.errors import UserError
from jobs.run.directory import RunDir, weights_name
from jobs.run.directory import average_of as average_of  # for readers of weights
from jobs.run.study.changes import FREE_TO_CHANGE, NEEDS_LENGTH
from jobs.run.study.sharing import sampled_steps
from jobs.spec.averages import described
from jobs.spec.keys import value_at
from jobs.spec.kinds import MODEL
from jobs.spec.reading.frozen import difference, dump, parse_frozen
from jobs.spec.sections import Spec
from jobs.storage.files import atomic_path, read_json, sha256_of_file, write_json
from jobs.storage.names import shortened

Weights = dict[str, Tensor]
NOT_OF_WEIGHTS = (*FREE_TO_CHANGE, "name", "sample")
"""Keys of a spec that trained weights do not depend on."""
KEPT = 2
"""Checkpoints that are always kept: the last one and, should that be damaged, the one before."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose files agreed with their checksums when it was opened."""

    path: Path
    step: int
    sha256: dict[str, str]
    snapshots: dict[int, str] = field(default_factory=dict)
    """The snapshots up to this step (jobs/run/snapshots.py): the sha256 of each one's manifest by its step, in order."""

    def weights(self, average: str | None, network: str = MODEL) -> Weights:
        """Return weights on the CPU. Raises UserError where this rate was not averaged."""
        name = weights_name(average, network)
        if name not in self.sha256:
            raise UserError(f"{self.path}: has no {name}; it has {', '.join(sorted(self.sha256))}")
        return load_file(self.path / name)

    def training_state(self) -> dict[str, Any]:
        """Raises UserError for an imported checkpoint, which cannot be trained on."""
        if "training.pt" not in self.sha256:
            raise UserError(f"{self.path}: imported weights without the optimiser's state; training cannot go on from them")
        return torch.load(self.path / "training.pt", map_location="cpu", weights_only=True)


def save_checkpoint(run: RunDir, step: int, weights: Mapping[str, Mapping[str | None, Weights]],
                    training_state: dict[str, Any] | None, snapshots: Mapping[int, str] | None = None) -> Path:
    """Write the state after `step` updates; then remove older checkpoints, except for the last two and those to be kept for good.

    `weights`: by network and average, None for the weights as trained. `snapshots`: see `Checkpoint.snapshots`.
    """
    spec = run.spec
    final = run.checkpoints / f"step-{step:08}"
    with atomic_path(final) as folder:
        folder.mkdir()
        for network, averages in weights.items():
            for average, values in averages.items():
                notes = {"step": str(step), **described(average)}
                save_weights(folder / weights_name(average, network), values, spec, notes)
        if training_state is not None:
            content = io.BytesIO()
            torch.save(training_state, content)
            (folder / "training.pt").write_bytes(content.getbuffer())
        files = sorted(folder.iterdir())
        skipped = max((training_state or {}).get("skipped", {}).values(), default=0)
        write_json(folder / "manifest.json", {"format": 1, "step": step, "skipped_steps": skipped, "snapshots": snapshots or {},
                                              "sha256": {file.name: sha256_of_file(file) for file in files},
                                              "bytes": {file.name: file.stat().st_size for file in files}})
        if final.exists():  # a damaged one that was passed over on resuming
            shutil.rmtree(final)
    _prune(run, step)
    return final


def save_weights(path: Path, weights: Mapping[str, Tensor], spec: Spec, notes: dict[str, str]) -> None:
    """Write one .safetensors file whose metadata say to which network and process the weights belong."""
    contiguous = {key: value.detach().contiguous().cpu() for key, value in weights.items()}
    # Written by Python: a full disk is then an OSError; the writers of safetensors and torch raise errors of their own.
    path.write_bytes(to_bytes(contiguous, metadata={"format": "pt", "spec": dump(spec), **notes}))


def _prune(run: RunDir, newest: int) -> None:
    """Remove old checkpoints. Ignore those after step `newest`: they are damaged, since training did not resume from them."""
    folders = [folder for folder in run.checkpoint_folders() if _step_of(folder) <= newest]
    every, sampled = run.spec.train.keep_interval, sampled_steps(run)
    for folder in folders[:-KEPT]:
        step = _step_of(folder)
        if not (step in sampled or every and step % every == 0):
            shutil.rmtree(folder)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


class ForeignCheckpoint(UserError):
    """A whole checkpoint, but of another run."""


def open_checkpoint(run: RunDir, folder: Path) -> Checkpoint:
    """Check every file of a checkpoint of `run` against its checksum, and that the checkpoint is this run's.

    Raises UserError that names the first file that is damaged or cannot be read, ForeignCheckpoint that names how the spec
    inside differs from the run's.
    """
    try:
        manifest = read_json(folder / "manifest.json")
        kept = {int(step): str(sha256) for step, sha256 in manifest.get("snapshots", {}).items()}
        checkpoint = Checkpoint(folder, int(manifest["step"]), dict(manifest["sha256"]), kept)
    except (OSError, UserError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'manifest.json'}: missing or damaged") from error
    for name, expected in checkpoint.sha256.items():
        try:
            if sha256_of_file(folder / name) != expected:
                raise UserError(f"{folder / name}: damaged (its checksum is not the recorded one)")
        except FileNotFoundError as error:
            raise UserError(f"{folder / name}: missing") from error
        except OSError as error:
            raise UserError(f"{folder / name}: cannot be read ({error.strerror or error})") from error
    if checkpoint.step != _step_of(folder):
        raise ForeignCheckpoint(f"{folder}: holds the weights of step {checkpoint.step}, not those that its name says")
    _check_own(run, checkpoint)
    return checkpoint


def _check_own(run: RunDir, checkpoint: Checkpoint) -> None:
    """Raise ForeignCheckpoint where the weights were trained with other settings than this run's."""
    texts = {recorded_spec(checkpoint.path / name) for name in checkpoint.sha256 if name.endswith(".safetensors")}
    for text in texts - {None, dump(run.spec)}:
        ignored = [*NOT_OF_WEIGHTS, *([] if any(value_at(run.spec, key) for key in NEEDS_LENGTH) else ["train.iterations"])]
        if changed := difference(parse_frozen(str(text), f"{checkpoint.path}, its metadata"), run.spec, ignore=ignored):
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise ForeignCheckpoint(f"{checkpoint.path}: a checkpoint of another run ({'; '.join(changed[:5])}{more})")


def recorded_spec(file: Path) -> str | None:
    """Return the text of the spec in the metadata of a .safetensors file; None where the file has none."""
    with safe_open(file, "pt") as opened:
        return (opened.metadata() or {}).get("spec")


def newest_checkpoint(run: RunDir, report=lambda text: None) -> Checkpoint | None:
    """The newest checkpoint that is whole, None where there is none at all.

    Damaged ones are passed over, each with a line to `report`. Raises UserError where all are damaged, or the folder cannot be
    read, and ForeignCheckpoint where the newest that is whole belongs to another run.
    """
    with contextlib.suppress(FileNotFoundError):
        try:
            os.listdir(run.checkpoints)  # glob takes a folder that cannot be read for an empty one
        except PermissionError as error:
            raise UserError(f"{run.checkpoints}: cannot be read ({error.strerror})") from error
    folders = run.checkpoint_folders()[::-1]
    for index, folder in enumerate(folders):
        try:
            return open_checkpoint(run, folder)
        except ForeignCheckpoint as error:
            raise ForeignCheckpoint(f"{error}; remove it to resume from the one before") from error
        except UserError as error:
            older = folders[index + 1].name if index + 1 < len(folders) else "none"
            report(f"{error}; falling back to the one before ({older})")
    if folders:
        raise UserError(f"{run.checkpoints}: every checkpoint is damaged; restore one, or remove the folder to start anew")
    return None


def final_checkpoint(run: RunDir) -> Checkpoint:
    """The checkpoint at the last iteration. Raises UserError where training is not finished or its result damaged."""
    iterations, last = run.spec.train.iterations, run.checkpoints / f"step-{run.spec.train.iterations:08}"
    reached = run.trained_steps()
    if reached < iterations:
        raise UserError(f"{run.path}: training is not finished (step {reached} of {iterations}); run `iddpm train {run.path}`")
    try:
        return open_checkpoint(run, last)
    except UserError as error:
        raise UserError(f"{error}. Remove {last}, and `iddpm train {run.path}` resumes from the one before.") from error


def checkpoint_at(run: RunDir, step: int, key: str = "sample.at") -> Checkpoint:
    """The checkpoint of a step to sample from, or to guide with. Raises UserError where it is gone or damaged, or training not
    finished; `key` is the setting that names the step."""
    if step == run.spec.train.iterations:
        return final_checkpoint(run)
    folder = run.checkpoints / f"step-{step:08}"
    if not folder.exists():
        there = ", ".join(str(_step_of(other)) for other in run.checkpoint_folders()) or "none"
        raise UserError(f"{folder}: not there. The steps whose checkpoints are there are those that {key} can name: {there}.")
    try:
        return open_checkpoint(run, folder)
    except UserError as error:
        raise UserError(f"{error}. Restore it, or take step {step} out of {key}.") from error


def skipped_steps(run: RunDir) -> int:
    """Return how many updates of a trained run were skipped, because their gradient was not finite; 0 where nobody knows."""
    try:
        return int(read_json(run.checkpoints / f"step-{run.spec.train.iterations:08}" / "manifest.json").get("skipped_steps", 0))
    except (OSError, UserError, AttributeError, TypeError, ValueError):
        return 0


def sha256_of_weights(weights: Weights) -> str:
    """Return a sha256 of names, types, shapes and values. Equal weights give equal results; their files may differ."""
    digest = hashlib.sha256()
    for key, value in sorted(weights.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_weights(network: torch.nn.Module, weights: Weights, source: Path) -> None:
    """Copy `weights` into the network. Raises UserError that names the first keys that do not fit."""
    if problem := mismatch(network.state_dict(), weights):
        raise UserError(f"{source}: weights of another network: {problem}")
    network.load_state_dict(weights)


def mismatch(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str | None:
    """Describe the first names and shapes in which `weights` differ from the `expected` ones of a network; None: they fit."""
    problems = [f"missing {key} {tuple(expected[key].shape)}" for key in expected if key not in weights]
    problems += [f"unknown {shortened(key)} {tuple(weights[key].shape)}" for key in weights if key not in expected]
    problems += [f"{key} is {tuple(weights[key].shape)}, the spec's network has {tuple(expected[key].shape)}"
                 for key in expected if key in weights and weights[key].shape != expected[key].shape]
    more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
    return f"{'; '.join(problems[:5])}{more}" if problems else None
