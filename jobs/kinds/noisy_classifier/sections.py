"""The spec of a classifier of noisy images: its own sections, and what they rule out.

Its sections `sample` and `evaluate` have other keys than those of kinds that draw samples: it draws none.
"""

from typing import Annotated

from pydantic import Field

from diffusion.networks.pools import POOLS
from jobs.kinds.diffusion.network_section import Multiplier, NetworkAsWritten, default_channel_mult, network_resolutions
from jobs.kinds.diffusion.process_section import Process, process_contradictions
from jobs.spec.fields import Count, EmaRate, File, OneOf, Section, Seed, SigmaRel
from jobs.spec.sections import Contradiction, Spec, SpecAsWritten, contradictions_of_training


class ClassifierAsWritten(NetworkAsWritten):
    """Defaults are those of the published classifiers."""

    younger = frozenset()
    num_res_blocks: Annotated[Count, Field(le=100)] = 2
    attention_resolutions: Annotated[list[Count], Field(max_length=100)] = [32, 16, 8]
    num_head_channels: Annotated[Count, Field(le=65_536)] | None = 64
    resblock_updown: bool = True
    pool: Annotated[str, OneOf(POOLS)] = "attention"
    """How the last activations become logits. With spatial and spatial_v2 the network fits images of any size."""


class Classifier(ClassifierAsWritten):
    channel_mult: list[Multiplier]
    """Empty where there is no default, which is a contradiction."""


class ClassifierWeights(Section):
    """The section `sample`: which weights are evaluated, exported, and guide. No samples are drawn."""

    ema_rate: EmaRate | None = 0.9999
    """One of train.ema_rate; null: the weights as trained."""
    ema_sigma_rel: SigmaRel | None = None
    """An average of this length instead, made of the snapshots of train.ema_sigma_rel; ema_rate then has no effect."""


class ClassifierEvaluate(Section):
    data: File | None = None
    """Held-out images with labels; null: data.path, on which the classifier was trained."""
    examples: Count = 10_000
    """How many of its images, from the first on; all where there are fewer."""
    batch_size: Count = 64
    seed: Seed = 0


class ClassifierSpecAsWritten(SpecAsWritten):
    model: ClassifierAsWritten = ClassifierAsWritten()
    diffusion: Process = Process()
    sample: ClassifierWeights = ClassifierWeights()  # type: ignore[assignment]  # a kind without samples has its own section
    evaluate: ClassifierEvaluate = ClassifierEvaluate()  # type: ignore[assignment]  # as `sample`


class ClassifierSpec(ClassifierSpecAsWritten, Spec):
    model: Classifier
    sample: ClassifierWeights  # type: ignore[assignment]
    evaluate: ClassifierEvaluate  # type: ignore[assignment]


def resolve(written: ClassifierSpecAsWritten) -> ClassifierSpec:
    """Fill in channel_mult, which depends on the image size."""
    model = dict(written.model) | {"channel_mult": default_channel_mult(written.model, written.data)}
    return ClassifierSpec(**dict(written) | {"model": Classifier(**model)})


def classifier_contradictions(spec: ClassifierSpec) -> list[Contradiction]:
    """Return all contradictions of the spec, none where it is in order."""
    resolutions, found = network_resolutions(spec.model, spec.data)
    if not spec.data.class_cond:
        found.append(("data.class_cond", "a classifier learns the classes of its images; give class_cond: true and num_classes"))
    elif spec.data.num_classes == 1:
        found.append(("data.num_classes", "a classifier needs at least 2 classes"))
    return found + contradictions_of_training(spec, resolutions) + process_contradictions(spec.diffusion)
