"""Snapshots of the power-function averages (train.ema_sigma_rel): whole or absent, and kept for good.

snapshots/step-00001000/
    manifest.json                       step; sha256 of every other file
    ema-sigma_rel-0.05.safetensors      one for each tracked average; NETWORK-ema-... of the other networks of a kind

The manifest of a checkpoint names all snapshots before it, with the sha256 of their manifests: none is lost or exchanged unseen.
A snapshot that training made after the checkpoint from which it resumes is removed, and made again.
"""

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open

from jobs.errors import UserError
from jobs.run.checkpoints import Checkpoint, Weights, save_weights
from jobs.run.directory import RunDir, average_of, weights_name
from jobs.spec.averages import combination, described, power_name
from jobs.spec.kinds import MODEL
from jobs.storage.files import atomic_path, read_json, sha256_of_file, write_json


class AveragedBy(Protocol):
    """A section `sample` of any kind: which weights are used."""

    @property
    def ema_rate(self) -> float | None: ...

    @property
    def ema_sigma_rel(self) -> float | None: ...


def snapshot_folder(run: RunDir, step: int) -> Path:
    """Return the folder of the snapshot after `step` updates."""
    return run.trainer.path / "snapshots" / f"step-{step:08}"


def save_snapshot(run: RunDir, step: int, averages: Mapping[str, Mapping[str, Weights]]) -> str:
    """Write the averages after `step` updates, by network and name. Return the sha256 of the manifest."""
    final = snapshot_folder(run, step)
    with atomic_path(final) as folder:
        folder.mkdir()
        for network, found in averages.items():
            for name, values in found.items():
                save_weights(folder / weights_name(name, network), values, run.spec, {"step": str(step), **described(name)})
        write_json(folder / "manifest.json", {"format": 1, "step": step, "sha256": {
            file.name: sha256_of_file(file) for file in sorted(folder.iterdir())}})
        if final.exists():  # training continues from a checkpoint before this one
            shutil.rmtree(final)
    return sha256_of_file(final / "manifest.json")


def discard_later(run: RunDir, step: int) -> None:
    """Remove the snapshots after `step` updates, from which training continues: they belong to steps that are done again."""
    for folder in (run.trainer.path / "snapshots").glob("step-*"):
        number = folder.name.removeprefix("step-")
        if number.isdecimal() and int(number) > step:
            shutil.rmtree(folder)


def sampled_weights(run: RunDir, checkpoint: Checkpoint, sample: AveragedBy) -> tuple[Weights, Path]:
    """Return the weights that the settings `sample` choose at a checkpoint of the run, and the file or folder that has them."""
    if sample.ema_sigma_rel is not None:
        return power_average(run, checkpoint, sample.ema_sigma_rel), checkpoint.path
    average = average_of(sample.ema_rate)
    return checkpoint.weights(average), checkpoint.path / weights_name(average)


def power_average(run: RunDir, checkpoint: Checkpoint, sigma_rel: float, network: str = MODEL) -> Weights:
    """Return the average of length `sigma_rel` at the step of the checkpoint, float32 on the CPU.

    A tracked one is read from the checkpoint. Any other is a sum over the checkpoint and the snapshots before it: products and
    sums in float64, one after the other, rounded once. Equal files give equal bits on every processor. Memory holds one tensor
    of each file at a time. Raises UserError where a snapshot is missing or damaged, and where they do not give that average.
    """
    tracked = tuple(run.spec.train.ema_sigma_rel)
    names = [weights_name(power_name(each), network) for each in tracked]
    if not tracked or not {*names} <= checkpoint.sha256.keys():
        raise UserError(f"{checkpoint.path}: ema_sigma_rel {sigma_rel} is made of averages that training tracked "
                        f"(train.ema_sigma_rel), and there are none; it has {', '.join(sorted(checkpoint.sha256))}")
    if sigma_rel in tracked:
        return checkpoint.weights(power_name(sigma_rel), network)
    before = {step: sha256 for step, sha256 in checkpoint.snapshots.items() if step < checkpoint.step}
    try:
        shares = combination((*before, checkpoint.step), tracked, sigma_rel)
    except ValueError as error:
        raise UserError(f"{run.path}: ema_sigma_rel {error}") from error
    folders = [_open_snapshot(run, step, sha256) for step, sha256 in before.items()]
    with ExitStack() as opened:
        files = [opened.enter_context(safe_open(folder / name, "pt")) for folder in (*folders, checkpoint.path) for name in names]
        return {key: _weighted_sum(files, shares, key) for key in files[-1].keys()}


def _weighted_sum(files: list, shares: list[float], key: str) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for file, share in zip(files, shares, strict=True):
        # Two roundings, not the one of a fused multiply-add, which only some processors have.
        product = file.get_tensor(key).double() * share
        total = total + product
    return total.float()


def _open_snapshot(run: RunDir, step: int, sha256: str) -> Path:
    """Return the folder of a snapshot whose files agree with their checksums. Raises UserError that names one that does not."""
    folder = snapshot_folder(run, step)
    _check(folder / "manifest.json", sha256)
    for name, recorded in read_json(folder / "manifest.json")["sha256"].items():
        _check(folder / name, recorded)
    return folder


def _check(file: Path, sha256: str) -> None:
    try:
        problem = None if sha256_of_file(file) == sha256 else "damaged (its checksum is not the recorded one)"
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
    if problem:
        raise UserError(f"{file}: {problem}; restore it, or sample with an average that training tracked (sample.ema_rate, or "
                        "a sample.ema_sigma_rel that is in train.ema_sigma_rel)")
