"""The half of a kind of model that needs torch: training, sampling and evaluation use a kind through this protocol.

The module `Kind.model` of each kind has five functions; `generate` only where the kind draws samples (`GivingModule` has another
in its place), `basis` and `measure` only where it has numbers of its own:

    trainable(spec, device) -> Trainable              networks, losses and previews of one training run
    network(spec) -> nn.Module                        the network that samples, freshly initialised
    generate(spec, network, device, randn, labels, rows, begun, guide) -> Iterator[Generated]      one chunk of samples
    basis(spec, number) -> dict                       what an `OwnNumber` of the evaluation depends on besides the network
    measure(spec, network, number, group, on_pass) -> (summary, arrays)      that number

and, where its network has an encoder and a decoder, a sixth:

    reconstruct(spec, network, images, labels) -> Tensor    images that went through both
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from jobs.data.dataset import ImageData
from jobs.errors import UserError
from jobs.parallel.group import Group
from jobs.randomness import generator_for
from jobs.spec.kinds import OwnNumber, editing_kind, kind_of
from jobs.spec.sections import Spec

Network = Callable[..., Tensor]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Examples:
    """This rank's share of a global batch: images [n, C, H, W] in [-1, 1], labels int64 [n] or None."""

    images: Tensor
    labels: Tensor | None


class Inputs(Protocol):
    """All that the losses of one step depend on: a dataclass of tensors whose first dimension counts the n examples."""

    @property
    def weights(self) -> Tensor:
        """[n]: importance of each example's loss."""

    @property
    def quarter(self) -> Tensor | None:
        """int64 [n] in 0 .. 3: the quarter of the noise levels that an example is from. None where losses have no such split."""


AnyInputs = TypeVar("AnyInputs")


def microbatches(inputs: AnyInputs, size: int) -> list[AnyInputs]:
    """Split a dataclass of tensors [n, ...] into parts of `size` examples."""
    columns = {field.name: getattr(inputs, field.name) for field in fields(inputs)}  # type: ignore[arg-type]  # any dataclass
    count = next(len(column) for column in columns.values() if column is not None)
    parts = [slice(start, start + size) for start in range(0, count, size)]
    return [type(inputs)(**{name: None if column is None else column[part] for name, column in columns.items()})
            for part in parts]


@dataclass(frozen=True)
class Draw:
    """The randomness of one training step: a function of the seed, the step and the example's place in the global batch.

    Every rank draws for the whole global batch and keeps its share, so the numbers do not depend on the number of ranks.
    """

    seed: int
    step: int
    batch_size: int
    share: slice
    """This rank's examples of the global batch."""
    device: torch.device

    def generator(self, stream: str, device: torch.device | str) -> torch.Generator:
        """Return the generator of a random stream, by name; the stream starts anew at each step."""
        return generator_for(device, self.seed, stream, self.step)

    def normal(self, stream: str, shape: Sequence[int]) -> Tensor:
        """Return standard normal numbers [n, *shape] on the device."""
        generator = self.generator(stream, self.device)
        return torch.randn((self.batch_size, *shape), device=self.device, generator=generator)[self.share]

    def keys(self, stream: str) -> Tensor:
        """Return a random number for each example, int64 [n] on the device, such as a key for masks of dropout."""
        return self.own(torch.randint(-2 ** 63, 2 ** 63 - 1, (self.batch_size,), generator=self.generator(stream, "cpu")))

    def own(self, values: Tensor) -> Tensor:
        """Return this rank's share of `values` [batch_size, ...], copied from the CPU to the device."""
        share = values[self.share]
        if self.device.type == "cuda":
            share = share.pin_memory()
        return share.to(self.device, non_blocking=True)


@dataclass(frozen=True)
class Preview:
    """Pictures for TensorBoard: uint8 [N, H, W, C], shown in so many columns."""

    images: np.ndarray
    columns: int


@dataclass(frozen=True)
class UpdateRule:
    """How the updates of one network differ from those of others; `betas` are Adam's."""

    lr: float
    """Where the spec's warm-up and annealing begin and end."""
    betas: tuple[float, float] = (0.9, 0.999)
    bare: bool = False
    """Call the network itself instead of DDP's wrapper, whose hooks miss gradients of gradients. The training step then
    averages its gradients over ranks, once a step."""


class Trainable(Protocol):
    """One training run of one kind. Networks are on the device and initialised from torch's global random state."""

    networks: Mapping[str, nn.Module]
    """By name; jobs.spec.kinds.MODEL is the one that samples."""
    averaged: Collection[str]
    """Names of the networks that have moving averages."""
    updates: Sequence[str]
    """Names of the networks that one step updates, in order."""
    terms: Mapping[str, Sequence[str]]
    """By updated network, the loss terms that `losses` returns; "loss" is among them."""

    # Where networks are not all updated by train.lr and the usual betas, a Trainable also has `update_rules`, UpdateRules by name
    # of the network; see `update_rule`.

    def inputs(self, examples: Examples, draw: Draw) -> Inputs:
        """Draw all that the losses depend on: noise, timesteps, changed labels."""

    def losses(self, update: str, networks: Mapping[str, Network], inputs: Any) -> dict[str, Tensor]:
        """Return the loss terms of the network `update`, float32 [n] each. "loss" is minimised, times inputs.weights."""

    def learn(self, inputs: Any, losses: Mapping[str, Tensor]) -> None:
        """Learn from the losses of all updates, such as how often to draw each timestep."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of `learn`, for a checkpoint."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the state of `learn` from a checkpoint."""

    def first_previews(self, data: ImageData) -> dict[str, Preview]:
        """Return pictures of the data, shown once."""

    def previews(self, averages: Mapping[str, Weights]) -> dict[str, Preview]:
        """Return pictures by the averaged weights, by name of the network; shown at every save."""


def update_rule(kind: Trainable, name: str, lr: float) -> UpdateRule:
    """Return how the network `name` is updated: by its own rule, or else by the usual one with the spec's `lr`."""
    rules: Mapping[str, UpdateRule] = getattr(kind, "update_rules", {})
    return rules.get(name) or UpdateRule(lr)


@dataclass(frozen=True)
class Generated:
    """One step of generating a chunk of samples."""

    left: int
    """Steps that are left; 0: `x` is the result."""
    x: Tensor
    """float32 [n, C, H, W], in [-1, 1] at the end."""
    state: Mapping[str, Tensor]
    """All that the next step needs, besides the state of the random stream."""


@dataclass(frozen=True)
class Begun:
    """A chunk half-way, as its last `Generated` described it."""

    left: int
    state: Mapping[str, Tensor]


class ModelModule(Protocol):
    """The five functions of a kind's module; see the top of this file."""

    def trainable(self, spec: Any, device: torch.device) -> Trainable: ...

    def network(self, spec: Any) -> nn.Module: ...

    def generate(self, spec: Any, network: nn.Module, device: torch.device, randn: Callable[[Tensor], Tensor],
                 labels: np.ndarray | None, rows: int, begun: Begun | None,
                 guide: nn.Module | None = None) -> Iterator[Generated]: ...

    def basis(self, spec: Any, number: OwnNumber) -> dict[str, Any]: ...

    def measure(self, spec: Any, network: nn.Module, number: OwnNumber, group: Group,
                on_pass: Callable[[], None]) -> tuple[dict[str, Any], dict[str, np.ndarray]]: ...


class GivingModule(Protocol):
    """What the module of a kind that makes its samples of given images (jobs.spec.kinds.GivenKind) has in place of `generate`."""

    def generate_of(self, spec: Any, network: nn.Module, device: torch.device, randn: Callable[[Tensor], Tensor],
                    labels: np.ndarray | None, given: np.ndarray, begun: Begun | None,
                    guide: nn.Module | None = None) -> Iterator[Generated]:
        """Yield the steps of one chunk, whose samples are made of the images `given`, uint8 [n, H, W, C]."""


class ReconstructingModule(ModelModule, Protocol):
    """The module of a kind whose network encodes an image, and decodes what it encoded."""

    def reconstruct(self, spec: Any, network: Any, images: Tensor, labels: np.ndarray | None) -> Tensor:
        """Return images [n, C, H, W] in [-1, 1], encoded and decoded again. labels: int64 [n] where the network takes them."""


@dataclass(frozen=True)
class Walk:
    """A way of N images in `steps` steps, which is walked by iterating over `each`."""

    steps: int
    evaluations: int
    """Of the network for one image, over all steps."""
    start: Tensor | None
    """x before the first step, [N, C, H, W], where that is known."""
    each: Iterator[Generated]


class EditingModule(Protocol):
    """The functions of the module `EditingKind.editing`: new pictures of given ones.

    Images and latents are [N, C, H, W]; `guide` and `labels` int64 [N] as in `generate`; `steps` of the chain, None for as many
    as usual.
    """

    def decoded(self, spec: Any, network: Any, guide: nn.Module | None, latents: Tensor, labels: np.ndarray | None,
                steps: int | None) -> Walk: ...

    def encoded(self, spec: Any, network: Any, guide: nn.Module | None, images: Tensor, labels: np.ndarray | None,
                steps: int | None) -> Walk: ...

    def varied(self, spec: Any, network: Any, guide: nn.Module | None, images: Tensor, labels: np.ndarray | None, at: float,
               randn: Callable[[Tensor], Tensor]) -> Walk: ...

    def inpainted(self, spec: Any, network: Any, guide: nn.Module | None, images: Tensor, labels: np.ndarray | None,
                  anew: Tensor, steps: int | None, randn: Callable[[Tensor], Tensor]) -> Walk: ...


def editing_of(spec: Spec) -> EditingModule:
    """Return the editing functions of the spec's kind. Raises UserError for a kind that has none."""
    kind = editing_kind(spec)
    if kind is None:
        raise UserError(f"pictures of kind {spec.kind} cannot be edited")
    module: Any = import_module(kind.editing)
    return module


def giving_model(spec: Spec) -> GivingModule:
    """Return the torch half of the spec's kind, which makes its samples of given images."""
    module: Any = import_module(kind_of(spec).model)
    return module


def model_of(spec: Spec) -> ModelModule:
    """Return the torch half of the spec's kind."""
    module: Any = import_module(kind_of(spec).model)
    return module


def reconstructing(spec: Spec) -> ReconstructingModule | None:
    """Return the torch half of the spec's kind; None where its network reconstructs no images."""
    module: Any = model_of(spec)
    return module if hasattr(module, "reconstruct") else None
