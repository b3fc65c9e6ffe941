"""The cost of a run, counted from its spec alone: parameters, operations, memory and disk. No torch, no timing.

A kind of model counts the layers of its networks; `run_cost` adds them up. One operation (flop) is half a multiply-add. Only
matrix products, convolutions and the two products of attention count, as in torch.utils.flop_counter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import chain
from math import ceil
from typing import Any

from jobs.cost.guided import NO_OTHERS, evaluations_worth
from jobs.spec.averages import snapshot_steps
from jobs.spec.kinds import MODEL, draws_samples, kind_of
from jobs.spec.layer_cost import LayerCost
from jobs.spec.precisions import PRECISIONS
from jobs.spec.samplings import samplings, steps_kept_for_good, with_sampling
from jobs.spec.sections import Spec, Train, ranks_to_use

FP32 = PRECISIONS["fp32"].bytes


@dataclass(frozen=True)
class TrainingMemory:
    """Peak bytes of each item on one rank. Workspace of kernels, buckets of DDP and fragmentation are not counted."""

    parameters: int
    half_parameters: int
    """Autocast's copy of the parameters; 0 in fp32."""
    gradients: int
    optimizer: int
    """AdamW's two moments."""
    ema: int
    activations: int
    """Of one microbatch."""

    @property
    def total(self) -> int:
        return sum(astuple(self))


@dataclass(frozen=True)
class Cost:
    parameters: int
    tensors: int
    forward_flops: int
    """One image, one timestep."""
    recomputed_flops: int
    """Operations that the backward pass of one image repeats; 0 without gradient checkpointing."""
    training_step_flops: int
    """The global batch, forward and backward."""
    training_flops: int
    sampling_steps: int
    """Of the main sampling, for one sample."""
    evaluations: float
    """Of the main sampling, for one sample, as `guided.evaluations_worth` counts them."""
    sampling_flops: int
    """Of all samplings."""
    evaluate_forward_passes: int
    """Images through the network for the kind's own numbers, such as bits/dim."""
    training_memory: TrainingMemory
    chunks: int
    """Of one sampling."""
    samples_bytes: int
    """The arrays of one sampling's samples.h5."""
    checkpoint_bytes: int
    """Weights, their averages and the optimizer's moments, in fp32."""
    snapshots_bytes: int
    """All snapshots of the averages of train.ema_sigma_rel, in fp32; 0 where there are none."""


def run_cost(spec: Spec, others: Mapping[str, Spec] = NO_OTHERS) -> Cost:
    """Count the cost of a run. `spec` must be without contradictions. `others`: see `guided.evaluations_worth`."""
    train, kind = spec.train, kind_of(spec)
    networks = kind.layers(spec)
    layers = list(chain.from_iterable(networks.values()))
    parameters = sum(layer.parameters for layer in layers)
    forward = sum(layer.flops for layer in networks[MODEL])
    passes = training_passes(spec)
    recomputed = sum(layer.recomputed_flops for layer in layers if _is_checkpointed(layer, train))
    averaged = _averaged_parameters(spec)
    averages = FP32 * averaged * (len(train.ema_rate) + len(train.ema_sigma_rel))
    step = (sum(passes[name] * layer.flops for name, each in networks.items() for layer in each) + recomputed) * train.batch_size
    return Cost(
        parameters=parameters,
        tensors=sum(layer.tensors for layer in layers),
        forward_flops=forward,
        recomputed_flops=recomputed,
        training_step_flops=step,
        training_flops=step * train.iterations,
        **_sampling(spec, forward, others),
        evaluate_forward_passes=sum(number.examples * number.passes for number in kind.numbers(spec)),
        training_memory=_training_memory(spec, layers, averages),
        checkpoint_bytes=FP32 * parameters * (1 + 2) + averages,
        snapshots_bytes=FP32 * averaged * len(train.ema_sigma_rel) * len(snapshot_steps(train.iterations, train.ema_snapshots)),
    )


def training_passes(spec: Spec) -> Mapping[str, int]:
    """Return what one example costs in a training step, in forward passes of each network, by name."""
    kind: Any = kind_of(spec)
    if hasattr(kind, "training_passes"):
        return kind.training_passes(spec)
    # A forward pass, and a backward pass with two products for each of the forward's: one for the weights, one for the input.
    return dict.fromkeys(kind.layers(spec), 3)


def _averaged_parameters(spec: Spec) -> int:
    """Count the parameters of the networks that have moving averages."""
    kind: Any = kind_of(spec)
    networks = kind.layers(spec)
    return sum(layer.parameters for name in getattr(kind, "averaged", networks) for layer in networks[name])


def _sampling(spec: Spec, forward_flops: int, others: Mapping[str, Spec]) -> dict[str, Any]:
    """Return what `Cost` says of sampling, all 0 for a kind that draws no samples."""
    if not draws_samples(spec):
        return dict.fromkeys(("sampling_steps", "evaluations", "sampling_flops", "chunks", "samples_bytes"), 0)
    data, sample, kind = spec.data, spec.sample, kind_of(spec)
    main, *further = [evaluations_worth(with_sampling(spec, sampling), others) for sampling in samplings(spec)]
    bytes_per_sample = data.image_size ** 2 * data.channels + 8 + (8 if data.class_cond else 0)  # image, index, label
    return {"sampling_steps": kind.steps(spec), "evaluations": main,
            "sampling_flops": round(forward_flops * sample.num_samples * (main + sum(further))),
            "chunks": ceil(sample.num_samples / sample.batch_size), "samples_bytes": sample.num_samples * bytes_per_sample}


def stored_bytes(spec: Spec, trains_for: Sequence[Spec] | None = ()) -> int:
    """Count the bytes that a run leaves on disk: the kept checkpoints, the snapshots of averages, and all samples as chunks,
    samples.h5 and one .npz.

    `trains_for`: the specs of the runs that share the run's training; None where another run trains for this one.
    """
    cost, sampled = run_cost(spec), samplings(spec)
    if trains_for is None:
        return (2 * len(sampled) + 1) * cost.samples_bytes
    kept = 2 + len({step for each in (spec, *trains_for) for step in steps_kept_for_good(each)})
    kept += spec.train.iterations // (spec.train.keep_interval or spec.train.iterations)
    return kept * cost.checkpoint_bytes + cost.snapshots_bytes + (2 * len(sampled) + 1) * cost.samples_bytes


def _training_memory(spec: Spec, layers: Sequence[LayerCost], averages: int) -> TrainingMemory:
    train, element = spec.train, PRECISIONS[spec.train.precision].bytes
    parameters = sum(layer.parameters for layer in layers)
    fewest = spec.resources.train.ends[-1].world_size  # ranks have the more examples the fewer they are
    examples = train.microbatch or train.batch_size // (ranks_to_use(train, fewest) or 1)
    kind: Any = kind_of(spec)
    kept = element * kind.kept_elements(spec) if hasattr(kind, "kept_elements") else _activation_bytes(layers, element, train)
    return TrainingMemory(
        parameters=FP32 * parameters,
        half_parameters=element * parameters if element < FP32 else 0,
        gradients=FP32 * parameters,
        optimizer=2 * FP32 * parameters,
        ema=averages,
        activations=examples * kept,
    )


def _is_checkpointed(layer: LayerCost, train: Train) -> bool:
    where = train.gradient_checkpointing
    return layer.recomputable and (where if isinstance(where, bool) else layer.resolution in where)


def _activation_bytes(layers: Sequence[LayerCost], element: int, train: Train) -> int:
    """Count the bytes per image that are kept for the backward pass."""
    whole = {layer: element * layer.activations + (FP32 - element) * layer.norm_inputs for layer in layers}
    again = [layer for layer in layers if _is_checkpointed(layer, train)]
    kept = sum(element * layer.checkpointed_activations if layer in again else whole[layer] for layer in layers)
    # The backward pass recomputes one layer at a time; the largest one sets the peak.
    return kept + max((whole[layer] for layer in again), default=0)
