"""The run folder of a training by the reference code, as a checkpoint from which training continues.

improved-diffusion and guided-diffusion write three kinds of files at a step: modelNNNNNN.pt (weights), ema_RATE_NNNNNN.pt for
each average, and optNNNNNN.pt, the state dict of torch's AdamW over model.parameters(). With use_fp16 that optimiser has flat
parameters: one of all (improved-diffusion), or one of all tensors with at most one dimension and one of the others
(guided-diffusion). NNNNNN is the step from which the reference itself resumes; its optimiser may have counted one update more.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jobs.errors import UserError
from jobs.finite import not_finite
from jobs.kinds.foreign_weights import StateDict, open_weights, read_pt
from jobs.kinds.protocol import model_of
from jobs.run.checkpoints import Weights, average_of, save_checkpoint
from jobs.run.directory import RunDir
from jobs.spec.kinds import MODEL
from jobs.spec.sections import Spec
from jobs.storage.files import read_json, sha256_of_file, write_json
from jobs.storage.names import listed, shortened

FILES = {"model": r"model(\d{6,12})\.pt", "optimizer": r"opt(\d{6,12})\.pt", "average": r"ema_([0-9.e-]{1,20})_(\d{6,12})\.pt"}
MOMENTS = ("exp_avg", "exp_avg_sq")
SETTINGS = {"betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False, "maximize": False}
"""Of AdamW, in both codes alike."""


@dataclass(frozen=True)
class ForeignRun:
    """The files of one step in the reference's run folder."""

    step: int
    model: Path
    optimizer: Path
    averages: dict[float, Path] = field(default_factory=dict)
    """By rate."""


def find_run(folder: Path, step: int | None = None) -> tuple[ForeignRun, list[str]]:
    """Return the files of training step `step` in `folder` (None: of the newest step that is whole), and notes for the user.

    Raises UserError where the folder has no such step.
    """
    models: dict[int, Path] = {}
    optimizers: dict[int, Path] = {}
    averages: dict[int, dict[float, Path]] = {}
    for file in sorted(folder.iterdir()):
        if found := re.fullmatch(FILES["model"], file.name):
            models[int(found[1])] = file
        elif found := re.fullmatch(FILES["optimizer"], file.name):
            optimizers[int(found[1])] = file
        elif (found := re.fullmatch(FILES["average"], file.name)) and (rate := _number(found[1])) is not None:
            averages.setdefault(int(found[2]), {})[rate] = file
    whole = sorted(models.keys() & optimizers.keys())
    if not whole:
        raise UserError(f"{folder}: no run folder of the reference code; it needs modelNNNNNN.pt and optNNNNNN.pt of one step. "
                        "Weights alone are imported as a file")
    if step is not None and step not in whole:
        raise UserError(f"{folder}: has no modelNNNNNN.pt and optNNNNNN.pt of step {step}; it has those of "
                        f"{', '.join(map(str, whole[-10:]))}")
    chosen = whole[-1] if step is None else step
    notes = [f"{file}: passed over, since there is no opt{number:06}.pt" for number, file in models.items()
             if number > chosen and step is None]
    return ForeignRun(chosen, models[chosen], optimizers[chosen], dict(sorted(averages.get(chosen, {}).items()))), notes


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def told_by_run(found: ForeignRun, optimizer: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the files of a run tell, besides those that its weights tell: averages, and AdamW's settings.

    `written`: the plain values of the spec. With train.lr_anneal the optimiser knows only the learning rate of its last step.
    """
    rates, group = list(found.averages), optimizer["param_groups"][0]
    annealed = isinstance(train := written.get("train"), Mapping) and train.get("lr_anneal")
    told: dict[str, Any] = {"train.ema_rate": rates, "sample.ema_rate": rates[-1] if rates else None}
    return told | {f"train.{key}": float(group[key]) for key in ("lr", "weight_decay")
                   if isinstance(group.get(key), int | float) and not (key == "lr" and annealed)}


def read_optimizer(file: Path) -> dict[str, Any]:
    """Return the state dict of an optimiser in `file`. Runs no code in it. Raises UserError where there is none."""
    content = read_pt(file)
    problem = UserError(f"{file}: not the state dict of an optimiser; the reference code writes param_groups and state")
    if not isinstance(content, dict) or not isinstance(content.get("state"), dict):
        raise problem
    groups = content.get("param_groups")
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
        raise problem
    numbers = groups[0].get("params", [])
    if not isinstance(numbers, list) or numbers != list(range(len(numbers))):
        raise UserError(f"{file}: its parameters are not numbered 0, 1, ... as torch numbers those of a network")
    for name, ours in SETTINGS.items():
        theirs = groups[0].get(name, ours)
        if theirs != ours and theirs != list(ours if isinstance(ours, tuple) else ()):
            raise UserError(f"{file}: its AdamW has {name} {shortened(str(theirs))}; training here has {ours}")
    return content


def import_training(run: RunDir, folder: Path, found: ForeignRun, weights: Mapping[str | None, Weights],
                    state: dict[str, Any]) -> None:
    """Save `weights` and `state`, as `training_of` returned them, as a checkpoint of the run, from which training continues.

    Raises UserError where the run has a checkpoint.
    """
    if run.trained_steps():
        raise UserError(f"{run.path}: has a checkpoint of step {run.trained_steps()}; import into a new run (name=...)")
    files = [found.model, found.optimizer, *found.averages.values()]
    sha256 = {file.name: sha256_of_file(file) for file in files}
    origin = {"file": str(folder.resolve()), "sha256": sha256[found.model.name], "step": found.step,
              "step_from": f"the name {found.model.name}", "ema_rate": None, "files": sha256}
    write_json(run.path / "provenance.json", read_json(run.path / "provenance.json") | {"imported": origin})
    save_checkpoint(run, found.step, {MODEL: weights}, state)


def training_of(spec: Spec, folder: Path, found: ForeignRun, read: StateDict,
                optimizer: Mapping[str, Any]) -> tuple[dict[str | None, Weights], dict[str, Any]]:
    """Return the weights by average, and the training state of a checkpoint of `spec`.

    `read` and `optimizer`: what the files of weights and of the optimiser hold. Raises UserError where they do not fit the spec's
    network, and where an average of train.ema_rate is missing.
    """
    if missing := [rate for rate in spec.train.ema_rate if rate not in found.averages]:
        there = ", ".join(map(str, found.averages)) or "none"
        raise UserError(f"{folder}: train.ema_rate has {', '.join(map(str, missing))}, but the averages of step {found.step} "
                        f"there are {there}; an average cannot begin in the middle of training")
    weights: dict[str | None, Weights] = {None: open_weights(found.model, spec, read).weights}
    weights |= {average_of(rate): open_weights(found.averages[rate], spec).weights for rate in spec.train.ema_rate}
    kind = model_of(spec).trainable(spec, torch.device("cpu"))
    if list(kind.networks) != [MODEL]:
        raise UserError(f"{folder}: kind {spec.kind} trains {listed(kind.networks)}; the reference code trains one network")
    network, train = kind.networks[MODEL], spec.train
    ours = torch.optim.AdamW(network.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=True).state_dict()
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    scaler = torch.amp.GradScaler("cpu", enabled=train.precision == "fp16").state_dict()
    state = {"optimizer": {MODEL: ours | {"state": _moments(found.optimizer, optimizer["state"], shapes)}},
             "scaler": {MODEL: scaler}, "bad_steps": {MODEL: 0}, "skipped": {MODEL: 0},
             "kind": kind.state_dict(), "gradient_noise": {}}
    return weights, state


def _moments(file: Path, state: Mapping[Any, Any], shapes: Mapping[str, torch.Size]) -> dict[int, dict[str, Tensor]]:
    """Return the state of AdamW for each parameter of `shapes`, in their order. Raises UserError where `state` does not fit."""
    groups = _groups(file, state, shapes)
    order = {name: number for number, name in enumerate(shapes)}
    found: dict[int, dict[str, Tensor]] = {}
    for entry, names in groups:
        count = _count(entry.get("step"))
        if not 0 <= count < 2 ** 24:  # beyond, float32 counts no more
            raise UserError(f"{file}: its AdamW does not say how many updates it has done")
        flat = {name: entry[name].detach().to(torch.float32).flatten() for name in MOMENTS}
        if problem := not_finite(flat):
            raise UserError(f"{file}: {problem}")
        if bool((flat["exp_avg_sq"] < 0).any()):
            raise UserError(f"{file}: exp_avg_sq of {names[0]} has negative values; it is a mean of squares")
        start = 0
        for name in names:
            end = start + shapes[name].numel()
            found[order[name]] = {"step": torch.tensor(count)} | {moment: values[start:end].view(shapes[name]).clone()
                                                                   for moment, values in flat.items()}
            start = end
    return dict(sorted(found.items()))


def _count(step: Any) -> float:
    """Return a number, or a tensor of one number, as a float; -1 for anything else."""
    if isinstance(step, Tensor) and step.numel() == 1 and step.layout == torch.strided and not step.is_complex():
        return float(step)
    return float(step) if isinstance(step, int | float) else -1.0


def _groups(file: Path, state: Mapping[Any, Any],
            shapes: Mapping[str, torch.Size]) -> list[tuple[Mapping[str, Any], Sequence[str]]]:
    """Return each entry of the optimiser's `state` with the names of its parameters: one, or many in a row."""
    entries = [state.get(number) for number in range(len(state))]
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not all(isinstance(entry.get(name), Tensor) and entry[name].is_floating_point()
                                                     and entry[name].layout == torch.strided for name in MOMENTS):
            raise UserError(f"{file}: parameter {number} has no {' and '.join(MOMENTS)}; the reference code trains with AdamW")
    names = list(shapes)
    vectors = [name for name in names if len(shapes[name]) <= 1]
    ways = {1: [names], 2: [vectors, [name for name in names if len(shapes[name]) > 1]],  # flat ones, of mixed precision
            len(names): [[name] for name in names]}
    parts = ways.get(len(entries))
    if parts is None:
        raise UserError(f"{file}: the state of {len(entries)} parameters, but the spec's network has {len(names)}")
    pairs: list[tuple[Mapping[str, Any], Sequence[str]]] = []
    for number, (entry, part) in enumerate(zip(entries, parts, strict=True)):
        assert entry is not None, "checked above"
        expected = shapes[part[0]] if len(part) == 1 else torch.Size([sum(shapes[name].numel() for name in part)])
        for moment in MOMENTS:
            there = entry[moment].shape
            if there != expected and not (len(part) > 1 and there.numel() == expected.numel()):
                raise UserError(f"{file}: {moment} of parameter {number} is {tuple(there)}, but {part[0]} of the spec's network "
                                f"{'and those behind it are' if len(part) > 1 else 'is'} {tuple(expected)}")
        pairs.append((entry, part))
    return pairs
