"""Make the state of a training run, load the state from a checkpoint, save the state to a checkpoint."""

import warnings

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from jobs.errors import StageFailed
from jobs.finite import not_finite
from jobs.kinds.foreign_weights import read_weights
from jobs.kinds.protocol import Draw, Examples, UpdateRule, model_of, update_rule
from jobs.parallel.compiling import BLOCKS, check_compiler, compile_in_place, compile_options
from jobs.parallel.group import Group, on_main
from jobs.randomness import derived_seed
from jobs.run.checkpoints import Checkpoint, load_weights, newest_checkpoint, save_checkpoint, weights_name
from jobs.run.directory import RunDir
from jobs.run.progress import note
from jobs.run.snapshots import discard_later, save_snapshot
from jobs.run.start_weights import recorded_start
from jobs.spec.averages import average_names
from jobs.spec.kinds import MODEL
from jobs.spec.sections import Spec
from jobs.training.gradient_noise import GradientNoise
from jobs.training.step import Part, TrainingState, only_training


def new_state(spec: Spec, group: Group) -> TrainingState:
    """Return freshly initialised networks, equal on every rank, with their optimisers, scalers and averages."""
    torch.manual_seed(derived_seed(spec.train.seed, "weights"))
    kind = model_of(spec).trainable(spec, group.device)
    parts = {name: _part(network, name in kind.averaged, update_rule(kind, name, spec.train.lr), spec, group)
             for name, network in kind.networks.items()}
    return TrainingState(spec, group, kind, parts)


def _part(network: nn.Module, averaged: bool, rule: UpdateRule, spec: Spec, group: Group) -> Part:
    device_ids = [group.device.index] if group.device.type == "cuda" else None
    # Without static_graph, which was no faster (tests/benchmarks/train.py ranks).
    ddp = None if rule.bare else DistributedDataParallel(compiled(network, spec, group), device_ids=device_ids,
                                                         gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rule.lr, betas=rule.betas, weight_decay=spec.train.weight_decay,
                                  fused=True)
    scaler = torch.amp.GradScaler(group.device.type, enabled=spec.train.precision == "fp16")
    averages = {rate: {key: value.detach().clone() for key, value in network.named_parameters()}
                for rate in average_names(spec.train.ema_rate, spec.train.ema_sigma_rel) if averaged}
    none = torch.zeros((), dtype=torch.int64, device=group.device)
    return Part(network, ddp, rule.lr, optimizer, scaler, averages, bad_steps=none, skipped=none.clone())


def compiled(network: nn.Module, spec: Spec, group: Group) -> nn.Module:
    """Return the module to train: `network`, or with train.compile a compiled module that shares the parameters of `network`.

    Previews and checkpoints use `network` itself; blocks are compiled in place. Raises UserError if the machine has no compiler.
    """
    if not spec.train.compile:
        return network
    check_compiler("train.compile", group.device)
    # Compiled as a whole: cut at DDP's buckets the network could not have gradient checkpointing.
    torch._dynamo.config.optimize_ddp = False
    # DDP warns of the gradients of 1x1 convolutions, which DDP copies.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    if spec.train.compile == BLOCKS:
        compile_in_place(network, BLOCKS)
        return network
    return torch.compile(network, **compile_options(spec.train.compile))  # type: ignore[return-value]  # a module, like its argument


def resume(state: TrainingState, run: RunDir) -> int:
    """Load the newest whole checkpoint on every rank. Return its number of updates, 0 without a checkpoint.

    Raises StageFailed for weights or averages that are not finite, from which no training recovers.
    """
    checkpoint: Checkpoint | None = on_main(lambda: newest_checkpoint(run, report=note))
    settle_buckets(state)
    on_main(lambda: discard_later(run, checkpoint.step if checkpoint else 0))
    if checkpoint is None:
        start_from_file(state, run)
        return 0
    saved = checkpoint.training_state()
    for name, part in state.parts.items():
        load_weights(part.network, checkpoint.weights(None, name), checkpoint.path / weights_name(None, name))
        for rate, average in part.averages.items():
            for key, value in checkpoint.weights(rate, name).items():
                average[key].copy_(value)
        loaded = [(weights_name(None, name), part.network.state_dict())]
        loaded += [(weights_name(rate, name), average) for rate, average in part.averages.items()]
        for file, values in loaded:
            if problem := not_finite(values):
                raise StageFailed(f"{checkpoint.path / file}: {problem}", kind="diverged")
        part.optimizer.load_state_dict(saved["optimizer"][name])
        part.scaler.load_state_dict(saved["scaler"][name])
        part.bad_steps.fill_(saved["bad_steps"][name])
        part.skipped.fill_(saved.get("skipped", saved["bad_steps"])[name])
    state.kind.load_state_dict(saved["kind"])
    state.noise = GradientNoise(**saved["gradient_noise"])
    state.snapshots = dict(checkpoint.snapshots)
    if state.group.is_main:
        note(f"resuming from {checkpoint.path}")
    return checkpoint.step


def start_from_file(state: TrainingState, run: RunDir) -> None:
    """Load the weights of train.init_from, if the spec names any, into the network that samples, and its averages.

    Called only while the run has no checkpoint: a resumed run never reads the file again. Raises UserError as `recorded_start`.
    """
    file = on_main(lambda: recorded_start(run))
    if file is None:
        return
    weights, part = read_weights(file, run.spec), state.parts[MODEL]
    load_weights(part.network, weights, file)
    for average in part.averages.values():
        for key, value in average.items():
            value.copy_(weights[key])
    if state.group.is_main:
        note(f"starting from the weights in {file}")


def settle_buckets(state: TrainingState) -> None:
    """Do two backward passes whose gradients are thrown away, so that DDP has its final layout of buckets.

    DDP lays out the buckets anew after the first backward pass, which changes the order of sums. Without this function the
    first step after a resume would add in another order than the equal step of an unbroken run. With train.compile the
    networks are compiled here, for batches of the size that training has.
    """
    data, train, group = state.spec.data, state.spec.train, state.group
    rows = (train.microbatch or train.batch_size // group.world_size) if train.compile else 1
    images = torch.zeros(rows, data.channels, data.image_size, data.image_size, device=group.device)
    labels = torch.zeros(rows, dtype=torch.int64, device=group.device) if data.class_cond else None
    inputs = state.kind.inputs(Examples(images, labels), Draw(train.seed, 0, rows, slice(0, rows), group.device))
    for name in state.kind.updates:
        with only_training(state.parts, name):
            for _ in range(2):
                state.kind.losses(name, state.callables(name), inputs)["loss"].sum().backward()
    for part in state.parts.values():
        part.optimizer.zero_grad()


def save(state: TrainingState, run: RunDir, step: int) -> None:
    """Write a checkpoint after `step` updates. The main rank alone writes; the state is equal on all ranks."""
    if not state.group.is_main:
        return
    parts = state.parts
    training = {"optimizer": {name: part.optimizer.state_dict() for name, part in parts.items()},
                "scaler": {name: part.scaler.state_dict() for name, part in parts.items()},
                "bad_steps": {name: int(part.bad_steps) for name, part in parts.items()},
                "skipped": {name: int(part.skipped) for name, part in parts.items()},
                "kind": state.kind.state_dict(), "gradient_noise": vars(state.noise)}
    weights = {name: {None: part.network.state_dict(), **part.averages} for name, part in parts.items()}
    save_checkpoint(run, step, weights, training, state.snapshots)


def keep_snapshot(state: TrainingState, run: RunDir, step: int) -> None:
    """Keep the power-function averages after `step` updates for good. The main rank alone writes."""
    if not state.group.is_main:
        return
    names = average_names([], state.spec.train.ema_sigma_rel)
    averages = {network: {name: part.averages[name] for name in names} for network, part in state.parts.items() if part.averages}
    state.snapshots[step] = save_snapshot(run, step, averages)
