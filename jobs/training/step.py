"""Do one update: inputs, losses, backward pass, optimiser, averages, for every network. `train_step` reads from top to bottom.

A batch comes from batches.py to `train_step`, which calls the kind's `losses` (jobs/kinds/diffusion/trainable.py), which
call diffusion/losses.py, gaussian.py, networks/unet.py and networks/layers.py. The update follows here, with diffusion/ema.py.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diffusion.ema import update_ema
from jobs.kinds.protocol import Draw, Examples, Inputs, Network, Trainable, microbatches
from jobs.parallel.compiling import uncompiled
from jobs.parallel.group import Group
from jobs.parallel.precision import autocasting
from jobs.randomness import derived_seed
from jobs.spec.averages import rate_at
from jobs.spec.kinds import MODEL
from jobs.spec.sections import Spec, Train
from jobs.training.batches import share_of
from jobs.training.gradient_noise import GradientNoise


@dataclass
class Part:
    """One network and all that an update of this network reads and changes."""

    network: nn.Module
    ddp: DistributedDataParallel | None
    """None for a network that is trained bare (jobs.kinds.protocol.UpdateRule)."""
    lr: float
    """Before warm-up and annealing."""
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    averages: dict[str, dict[str, Tensor]]
    """Moving averages of the parameters, by name (jobs.spec.averages): "0.9999" or "sigma_rel-0.05"."""
    bad_steps: Tensor
    """int64 [] on the device: how many of the latest updates in a row had a gradient that was not finite, and were skipped."""
    skipped: Tensor
    """int64 [] on the device: how many updates were skipped since the beginning of training."""
    parameters: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = list(self.network.parameters())

    def keeping_gradients(self) -> AbstractContextManager[None]:
        """Within this block, a backward pass adds to this rank's gradients, and averages nothing over ranks."""
        return self.ddp.no_sync() if self.ddp else nullcontext()


@dataclass
class TrainingState:
    """All that a step reads and changes."""

    spec: Spec
    group: Group
    kind: Trainable
    parts: dict[str, Part]
    """By name of the network."""
    noise: GradientNoise = field(default_factory=GradientNoise)
    snapshots: dict[int, str] = field(default_factory=dict)
    """The snapshots so far, on the main rank; see `Checkpoint.snapshots`."""

    def draw(self, step: int) -> Draw:
        """Return the randomness of training step `step`, counted from 0."""
        train = self.spec.train
        return Draw(train.seed, step, train.batch_size, share_of(self.group, train.batch_size), self.group.device)

    def callables(self, update: str) -> dict[str, Network]:
        """Return all networks in the spec's precision; the network `update` through DDP, which averages gradients over ranks,
        unless it is trained bare."""
        return {name: autocasting(part.ddp if part.ddp and name == update else part.network, self.spec.train.precision)
                for name, part in self.parts.items()}


@dataclass(frozen=True)
class StepResult:
    """Results of one step on this rank."""

    inputs: Inputs
    losses: dict[str, Tensor]
    """Loss terms float32 [n] by `term_name`."""
    grad_norms: dict[str, Tensor]
    """Norm of the global gradient, unscaled and unclipped, by name of the network."""


def train_step(state: TrainingState, examples: Examples, step: int) -> StepResult:
    """Do one update of every network from `examples`, this rank's share of the global batch of step `step` (from 0).

    A gradient that is not finite leaves weights, optimiser and averages unchanged. Only the kind's `learn` may wait for the
    device.
    """
    kind, train = state.kind, state.spec.train
    seed_torch(state, step)
    inputs = kind.inputs(examples, state.draw(step))
    losses: dict[str, Tensor] = {}
    grad_norms: dict[str, Tensor] = {}
    for name in kind.updates:
        part, networks = state.parts[name], state.callables(name)
        set_lr(part.optimizer, lr_at(step, train, part.lr))
        part.optimizer.zero_grad()
        terms = []
        batches = microbatches(inputs, train.microbatch or len(examples.images))
        with only_training(state.parts, name):
            for micro in batches:
                with nullcontext() if micro is batches[-1] else part.keeping_gradients():
                    found = kind.losses(name, networks, micro)
                    # Microbatches add up to the mean over the share; DDP then takes the mean over ranks.
                    loss = (found["loss"] * micro.weights).sum() / len(examples.images)
                    part.scaler.scale(loss).backward()
                terms.append({key: value.detach() for key, value in found.items()})
        losses |= {term_name(name, key): torch.cat([each[key] for each in terms]) for key in terms[0]}
        if part.ddp is None:
            average_gradients(part.parameters)
        grad_norms[name] = apply_gradients(part, train)
        bad = (part.bad_steps > 0).float()
        for average, values in part.averages.items():
            update_ema(list(values.values()), part.parameters, rate_at(average, step), skip=bad)
    kind.learn(inputs, losses)
    return StepResult(inputs, losses, grad_norms)


def seed_torch(state: TrainingState, step: int) -> None:
    """Make a network that draws random numbers by itself repeat them after a resume. They depend on the rank; the U-Net draws
    none: its dropout is a function of each example's key."""
    torch.manual_seed(derived_seed(state.spec.train.seed, "torch", step, state.group.rank))


def average_gradients(parameters: list[Tensor]) -> None:
    """Replace the gradients by their means over ranks, as one buffer: so all ranks have equal bits."""
    if torch.distributed.get_world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    buffer = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(buffer)
    buffer /= torch.distributed.get_world_size()
    for gradient, mean in zip(gradients, buffer.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def apply_gradients(part: Part, train: Train) -> Tensor:
    """Clip the gradient and update the parameters, unless the gradient is not finite. Return its norm, unscaled and unclipped."""
    optimizer, scaler = part.optimizer, part.scaler
    scaler.unscale_(optimizer)
    gradients = [parameter.grad for parameter in part.parameters if parameter.grad is not None]
    grad_norm = torch.nn.utils.get_total_norm(gradients)
    if train.grad_clip:
        torch.nn.utils.clip_grads_with_norm_(part.parameters, train.grad_clip, grad_norm)
    bad = ~torch.isfinite(grad_norm)
    part.bad_steps, part.skipped = (part.bad_steps + 1) * bad, part.skipped + bad
    if scaler.is_enabled():
        scaler.step(optimizer)
        scaler.update()
    else:
        # The fused kernel skips the update where found_inf is 1, without a wait for the device; GradScaler relies on that too.
        optimizer.found_inf = bad.float()  # type: ignore[attr-defined]  # AdamW reads this attribute but declares none
        optimizer.step()
    return grad_norm


def lr_at(step: int, train: Train, lr: float | None = None) -> float:
    """Return the learning rate of step `step` (from 0): linear warm-up, then `lr`, or linear to 0 at train.iterations.

    `lr`: a network's own; None: train.lr."""
    warm = min(1.0, (step + 1) / train.warmup) if train.warmup else 1.0
    return (train.lr if lr is None else lr) * warm * (1 - step / train.iterations if train.lr_anneal else 1.0)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def term_name(network: str, term: str) -> str:
    """Return the name under which a term of a network is logged: TERM for MODEL, NETWORK/TERM for the others."""
    return term if network == MODEL else f"{network}/{term}"


@contextmanager
def only_training(parts: Mapping[str, Part], name: str) -> Iterator[None]:
    """Within this block, compute no gradients of parameters of other networks than `name`; gradients still pass through them."""
    others = [parameter for other, part in parts.items() if other != name for parameter in part.parameters]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def part_square(state: TrainingState, examples: Examples, size: int, step: int) -> float:
    """Return the squared norm of the gradient of the first `size` examples of a rank's share, averaged over ranks.

    `examples` are the share of step `step`, which follows. Parameters and their gradients stay unchanged. This function
    waits for the device. jobs/training/gradient_noise.py says what the result is for.
    """
    part = state.parts[MODEL]
    inputs = microbatches(state.kind.inputs(examples, state.draw(step)), size)[0]
    seed_torch(state, step)
    with uncompiled(state.spec.train.compile):
        losses = state.kind.losses(MODEL, state.callables(""), inputs)
    loss = part.scaler.scale((losses["loss"] * inputs.weights).mean())
    gradients = torch.autograd.grad(loss, part.parameters)
    norm = torch.nn.utils.get_total_norm(gradients) / (part.scaler.get_scale() if part.scaler.is_enabled() else 1.0)
    square = norm.double() ** 2
    if state.group.world_size > 1:
        torch.distributed.all_reduce(square)
    return square.item() / state.group.world_size
