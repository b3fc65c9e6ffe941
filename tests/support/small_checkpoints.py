"""Make, read, compare and damage the checkpoints of small runs."""

import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from jobs.kinds.diffusion.build import build_network
from jobs.run.checkpoints import save_checkpoint
from jobs.run.directory import RunDir
from jobs.spec.kinds import MODEL


def save_untrained(run: RunDir, step: int) -> Path:
    """Write a checkpoint with fresh weights of this run's network; equal for equal steps."""
    torch.manual_seed(step)
    weights = dict(build_network(run.spec).state_dict())
    return save_checkpoint(run, step, {MODEL: {None: weights, "0.9": weights}}, {"of": step})


def steps_of(run: RunDir) -> list[int]:
    """Return the steps of the checkpoints on disk."""
    return sorted(int(folder.name.removeprefix("step-")) for folder in run.checkpoints.glob("step-*"))


def continued(run: RunDir, step: int, folder: str) -> RunDir:
    """Return a copy of the study as it was when the checkpoint of `step` was the newest."""
    study = run.path.parent
    copy = type(run)(shutil.copytree(study, study.parent.parent / folder / study.name) / run.path.name)
    for later in steps_of(copy):
        if later > step:
            shutil.rmtree(copy.checkpoints / f"step-{later:08}")
    return copy


def same(one, other) -> bool:
    """Return whether two nested containers of tensors and plain values agree to the bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def contents(checkpoint: Path) -> dict[str, dict]:
    """Return all that a checkpoint holds, by file."""
    found = {file.name: load_file(file) for file in sorted(checkpoint.glob("*.safetensors"))}
    return found | {"training.pt": torch.load(checkpoint / "training.pt", weights_only=True)}


def assert_same_checkpoint(one: Path, other: Path) -> None:
    ours, theirs = contents(one), contents(other)
    assert list(ours) == ["ema-0.9.safetensors", "model.safetensors", "training.pt"] == list(theirs)
    assert [name for name in ours if not same(ours[name], theirs[name])] == []


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 7)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
