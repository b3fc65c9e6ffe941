"""Kinds of model: the one table, and the protocol of the half that a login node needs. Nothing here imports torch.

A kind is a folder jobs/kinds/KIND: `kind.py` holds KIND, an object of the protocol `Kind`; `model.py` is the half that needs
torch (see jobs.kinds.protocol). All other code asks the table; no code compares the kind of a spec with a name.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from math import ceil
from typing import Any, Protocol

from jobs.spec.layer_cost import LayerCost
from jobs.spec.metrics import Number
from jobs.spec.sections import Contradiction, Spec, SpecAsWritten

KINDS: dict[str, str] = {
    "diffusion": "jobs.kinds.diffusion.kind",
    "gan": "jobs.kinds.gan.kind",
    "noisy_classifier": "jobs.kinds.noisy_classifier.kind",
    "upsampler": "jobs.kinds.upsampler.kind",
    "vae": "jobs.kinds.vae.kind",
}
"""By each name that `kind:` may have, the module that holds KIND. A command imports only the kinds that it needs."""

MODEL = "model"
"""Name of the network that samples; a kind may train other networks, too."""

Changes = tuple[tuple[str, Any], ...]
"""Keys of a spec's `sample` section with values that replace its own."""


@dataclass(frozen=True)
class OwnNumber:
    """A number that a kind computes from its own network, beside the metrics of samples; such as bits/dim."""

    name: str
    """In tables: "bits/dim"."""
    key: str
    """In evaluation.json, and the name of the .npz file with the terms of each example: "bits_per_dim"."""
    step: int
    """Training step of the weights."""
    changes: Changes
    """The settings of the sampling that this number belongs to."""
    examples: int
    batch_size: int
    passes: int
    """Evaluations of the network for one batch of examples."""
    of: str | None = None
    """Path of a data set that may have fewer than `examples` images: then all of these are used."""
    beside: tuple[str, ...] = ()
    """Keys of further numbers that are measured with this one: its summary holds theirs under these keys."""

    def batches(self, rank: int, world_size: int) -> range:
        """Return the numbers of the batches of examples that this rank evaluates."""
        return range(rank, ceil(self.examples / self.batch_size), world_size)


@dataclass(frozen=True)
class HeldOut:
    """A data set of the same shape and classes as data.path, of which the first `examples` images are used."""

    key: str
    """The key of the spec that names the data set."""
    path: str
    examples_key: str
    examples: int


@dataclass(frozen=True)
class Guide:
    """Weights of another network, or other weights, that a sampling needs besides those that it samples from."""

    run: str | None
    """The run of the weights, as `sample` names it; None: the run that samples."""
    step: int | None = None
    """Training step of the weights; None: the last one of their run."""
    changes: Changes = ()
    """Settings that replace those of `sample` of that run where they choose the weights, such as ema_rate."""
    passes: int = 1
    """Forward passes that one evaluation costs. A gradient with respect to the image costs a second one."""


@dataclass(frozen=True)
class Description:
    """What a run of a kind minimises, and how it trains and samples, for a reader who knows the field."""

    title: str
    """The name of the family: "GAN"."""
    objective: str
    """The formula that training minimises, in plain Unicode."""
    source: str
    """The paper and its equation."""
    training: tuple[str, ...]
    """The algorithm, a short sentence a line, without numbers."""
    sampling: tuple[str, ...]
    """Likewise; empty for a kind that draws no samples."""
    training_cost: str
    """How the operations of training grow, as a formula in B images, iterations, H, W, C channels and so on."""
    sampling_cost: str
    """How the operations of one sample grow, as a formula in T, N steps and F, one forward pass; empty as `sampling`."""


@dataclass(frozen=True)
class Given:
    """Images that samples are made of: sample i of image i. One of `run` and `path` is None."""

    key: str
    """The key of the spec that names them."""
    run: str | None
    """The run whose main samples they are, as `sample` names it."""
    path: str | None
    """A data set, or other samples."""
    size: int
    """Pixels of a side, as the network takes them."""


class Kind(Protocol):
    """The half of a kind of model that a login node needs. `Any` stands for the kind's own spec."""

    model: str
    """Name of the module that needs torch; see jobs.kinds.protocol."""
    written: type[SpecAsWritten]
    """The spec as a person writes it. Sections that jobs.spec.sections.Spec lacks belong to this kind."""
    resolved: type[Spec]
    """The spec with every default filled in."""
    stages: Sequence[str]
    """The stages that runs of this kind have, in the order of jobs.spec.stages.STAGES. A kind without the stage `sample` draws no
    samples: nothing asks its functions about samples, and its sections `sample` and `evaluate` are its own."""
    number_labels: Mapping[str, Number]
    """What tables say of the kind's own numbers, by the numbers' keys in evaluation.json."""

    def resolve(self, written: Any) -> Any:
        """Return the `resolved` spec: `written` with every default filled in."""

    def contradictions(self, spec: Any) -> list[Contradiction]:
        """Return the settings that contradict each other, as (dotted key, message)."""

    def samplings(self, spec: Any) -> Sequence[Changes]:
        """Return the samplings of the final weights that `evaluate` needs besides the main one."""

    def steps(self, spec: Any) -> int:
        """Return the number of steps in which spec.sample generates a sample; progress counts these steps."""

    def evaluations(self, spec: Any) -> int:
        """Return how often spec.sample evaluates the network for one sample."""

    def guide(self, spec: Any) -> Guide | None:
        """Return what guides spec.sample beside the network itself; None: nothing does."""

    def guide_problems(self, spec: Any, other: Spec) -> Iterable[Contradiction]:
        """Return why the run that guide(spec) names, whose spec is `other`, cannot guide."""

    def records_steps(self, spec: Any) -> bool:
        """Return whether sampling records a step on a GPU and replays it (a CUDA graph)."""

    def sampling_facts(self, spec: Any) -> dict[str, Any]:
        """Return the facts about spec.sample in evaluation.json; `sampling_steps` is one of them."""

    def sampling_attributes(self, spec: Any) -> dict[str, Any]:
        """Return the attributes of samples.h5 that describe spec.sample."""

    def identity(self, spec: Any) -> dict[str, Any]:
        """Return those settings of the kind's own sections that samples depend on, by section."""

    def layers(self, spec: Any) -> Mapping[str, Sequence[LayerCost]]:
        """Return the layers of each network by name, in the order of its state dict; MODEL is the network that samples."""

    def numbers(self, spec: Any) -> Sequence[OwnNumber]:
        """Return the numbers that the evaluation stage computes from the network itself, the main one first."""

    def held_out(self, spec: Any) -> Sequence[HeldOut]:
        """Return the data sets that the run reads besides data.path and evaluate.reference."""

    def told_by_weights(self, shapes: Mapping[str, Sequence[int]], written: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings that the names and shapes of other code's weights tell, by dotted key; empty where these are not
        weights of this kind. `written`: the plain values of the spec, without defaults."""

    def untold_by_weights(self, written: Mapping[str, Any], told: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the settings on which the meaning of weights depends, that are neither `told` by them nor `written`: by dotted
        key, with what published weights have."""

    def headline_settings(self, spec: Any) -> dict[str, Any]:
        """Return the settings of a run of this kind that TensorBoard's HPARAMS always shows."""

    def description(self, spec: Any) -> Description:
        """Return what the run minimises, and how it trains and samples."""


class CountingKind(Protocol):
    """What a kind has, besides `Kind`, whose training step is not one forward and one backward pass of each network."""

    averaged: Collection[str]
    """Names of the networks of `layers` that have moving averages; a kind without this attribute averages all."""

    def training_passes(self, spec: Any) -> Mapping[str, int]:
        """Return what one example costs in a training step, in forward passes of each network, by name."""

    def kept_elements(self, spec: Any) -> int:
        """Return how many elements per image autograd keeps for backward passes, at the peak of a training step."""


class EditingKind(Protocol):
    """What a kind has, besides `Kind`, whose networks can make new pictures of given ones."""

    editing: str
    """Name of the module with the functions of jobs.kinds.protocol.EditingModule."""

    def shortened(self, spec: Any, steps: int) -> Any:
        """Return `spec` with a chain of so many steps in spec.sample. Raises ValueError where there is no such chain."""


class GivenKind(Protocol):
    """What a kind has, besides `Kind`, whose samples are made of given images, such as small ones that it enlarges."""

    def given(self, spec: Any) -> Given:
        """Return the images that spec.sample is made of."""

    def given_problems(self, spec: Any, size: int, channels: int, classes: int | None, count: int) -> Iterable[str]:
        """Return why `count` images of `size` pixels and so many channels do not fit. `classes`: None where they have none."""

    def shortened(self, spec: Any, steps: int) -> Any:
        """As that of EditingKind."""


@cache
def _load(module: str) -> Kind:
    return import_module(module).KIND


def kind_named(name: str) -> Kind:
    """Return the kind of this name. Raises KeyError where there is none."""
    return _load(KINDS[name])


def kind_of(spec: SpecAsWritten) -> Kind:
    """Return the kind that `spec` names."""
    return kind_named(spec.kind)


def stages_of(spec: SpecAsWritten) -> Sequence[str]:
    """Return the stages that a run of `spec` has."""
    return kind_of(spec).stages


def draws_samples(spec: SpecAsWritten) -> bool:
    """Return whether a run of `spec` has the stage `sample`."""
    return "sample" in stages_of(spec)


def editing_kind(spec: SpecAsWritten) -> EditingKind | None:
    """Return the kind that `spec` names; None where its networks cannot make new pictures of given ones."""
    kind: Any = kind_of(spec)
    return kind if hasattr(kind, "editing") else None


def given_kind(spec: SpecAsWritten) -> GivenKind | None:
    """Return the kind that `spec` names; None where its samples are made of noise alone."""
    kind: Any = kind_of(spec)
    return kind if hasattr(kind, "given") else None


def given_of(spec: SpecAsWritten) -> Given | None:
    """Return the images that the samples of `spec` are made of; None where they are made of noise alone."""
    kind = given_kind(spec)
    return kind.given(spec) if kind else None


def number_labels() -> dict[str, Number]:
    """Return what tables say of the own numbers of all kinds, by key."""
    return {key: label for name in KINDS for key, label in kind_named(name).number_labels.items()}
