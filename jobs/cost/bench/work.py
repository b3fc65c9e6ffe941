"""The steps that `iddpm bench` times: one update, one reverse step, or one forward pass, on random images."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from jobs.cost.bench.file import Variant
from jobs.cost.bench.timing import Work
from jobs.data.dataset import ImageData
from jobs.parallel.determinism import repeating
from jobs.parallel.precision import autocasting, computing_in
from jobs.randomness import generator_for
from jobs.sampling.loop import steps_of_chunk
from jobs.spec.kinds import MODEL, draws_samples, given_of
from jobs.spec.precisions import Precision
from jobs.spec.samplings import unguided
from jobs.spec.sections import Spec
from jobs.training.batches import Batches
from jobs.training.step import TrainingState, train_step

FOREVER = 10 ** 9  # steps


def training_work(state: TrainingState, variant: Variant, data: ImageData) -> Work:
    """`train_step` with the settings of `variant`, on batches made as for training. Variants of one state share its weights."""
    spec = with_variant(state.spec, variant)
    batches = Batches(spec, data, state.group)(0, FOREVER)
    scaler = torch.amp.GradScaler(state.group.device.type, enabled=variant.precision == "fp16")
    steps = itertools.count()

    def work() -> None:
        part = state.parts[MODEL]
        state.spec, part.scaler = spec, scaler
        if recompute := getattr(part.network, "checkpoint_gradients", None):  # a network may have nothing to recompute
            recompute(variant.gradient_checkpointing)
        with computing_in(variant.precision, state.group.device), repeating(variant.deterministic, state.group.device):
            train_step(state, next(batches), next(steps))
    return work


def with_variant(spec: Spec, variant: Variant) -> Spec:
    """`spec` that trains, or samples, with the settings of `variant`."""
    own = "gradient_checkpointing" if variant.work == "train" else "cuda_graph"
    settings = {key: getattr(variant, key) for key in ("precision", "batch_size", own)}
    return spec.model_copy(update={variant.work: getattr(spec, variant.work).model_copy(update=settings)})


def random_images(spec: Spec, count: int, size: int | None = None) -> ImageData:
    """`count` images of noise, and random labels for a spec with classes. `size` in pixels; None: data.image_size."""
    data, random = spec.data, np.random.default_rng(0)
    images = random.integers(0, 256, (count, *[size or data.image_size] * 2, data.channels), dtype=np.uint8)
    return ImageData(images, random.integers(0, data.num_classes, count) if data.class_cond else None, [], "random")


@dataclass(frozen=True)
class Use:
    """How a trained network is used: by the stage sample or, of a kind that draws no samples, by the stage evaluate."""

    stage: str
    batch_size: int
    precision: Precision


def use_of(spec: Spec) -> Use:
    """Return how the trained network of `spec` is used."""
    if draws_samples(spec):
        return Use("sample", spec.sample.batch_size, spec.sample.precision)
    return Use("evaluate", spec.evaluate.batch_size, "fp32")


def using_work(spec: Spec, network: nn.Module, variant: Variant, device: torch.device) -> Work:
    """One step of `use_of` with the settings of `variant`."""
    return (sampling_work if draws_samples(spec) else forward_work)(spec, network, variant, device)


def forward_work(spec: Spec, network: nn.Module, variant: Variant, device: torch.device) -> Work:
    """One forward pass of the network on noise, at time 0."""
    data, forward = spec.data, autocasting(network, variant.precision)
    x = torch.randn(variant.batch_size, data.channels, data.image_size, data.image_size, device=device,
                    generator=generator_for(device, "bench"))

    def work() -> object:
        with torch.no_grad(), computing_in(variant.precision, device):
            return forward(x, x.new_zeros(len(x)))
    return work


def sampling_work(spec: Spec, network: nn.Module, variant: Variant, device: torch.device) -> Work:
    """One step of a reverse chain with the settings of `variant`; after the last step a new chain begins."""
    spec = with_variant(unguided(spec), variant)  # a plan counts the evaluations of guidance
    labels = np.arange(variant.batch_size) % spec.data.classes if spec.data.classes else None
    given = given_of(spec)
    images = random_images(spec, variant.batch_size, given.size).images if given else None

    def steps() -> Iterator[object]:
        generator = generator_for(device, "bench")
        while True:
            yield from steps_of_chunk(spec, network, generator, labels, variant.batch_size, given=images)

    chain = steps()

    def work() -> object:
        with computing_in(variant.precision, device), repeating(variant.deterministic, device):
            return next(chain)
    return work
