"""The measured cost of a run, beside the cost that jobs.cost.count counts from its spec."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.cost.count import FP32, Cost, run_cost
from jobs.report.board import BoardLog
from jobs.report.diffusion_facts import doubled, layers_of, sampling_lengths
from jobs.report.run import Attempt, RunReport
from jobs.spec.kinds import draws_samples
from jobs.spec.layer_cost import LayerCost
from jobs.spec.precisions import Precision
from jobs.spec.sections import Spec

# Dense peak of half-precision matrix products in FLOP/s, by torch's name of the device (NVIDIA's data sheets).
PEAK_HALF = {"NVIDIA H200": 989e12, "NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA A100": 312e12,
             "Tesla V100": 125e12, "NVIDIA L40S": 362e12, "NVIDIA GeForce RTX 4090": 165e12}
# GPUs that have TensorFloat-32, all but Volta, compute in it at half that rate.
PEAK_TF32 = {name: peak / 2 for name, peak in PEAK_HALF.items() if "V100" not in name}
PEAKS: dict[Precision, dict[str, float]] = {"tf32": PEAK_TF32, "bf16": PEAK_HALF, "fp16": PEAK_HALF}


@dataclass(frozen=True)
class StageTime:
    seconds: float
    """Wall time of all attempts together."""
    process_hours: float
    """Wall time times the number of processes: GPU hours where each process has a GPU."""
    device: str
    attempts: int
    recorded: bool
    """True: from stages.jsonl. False: estimated from the training log."""


def stage_times(run: RunReport, log: BoardLog | None) -> dict[str, StageTime]:
    """Return the times of the stages that are known, by stage.

    A training that still runs, or was killed, has no line in stages.jsonl. Its time is estimated from `log`.
    """
    stages = dict.fromkeys(attempt.stage for attempt in run.attempts)
    times = {stage: _recorded([attempt for attempt in run.attempts if attempt.stage == stage]) for stage in stages}
    if "train" not in times and log and run.spec and (seconds := log.training_seconds):
        times["train"] = StageTime(seconds, seconds * run.spec.resources.train.world_size / 3600, "", 1, False)
    return times


def _recorded(attempts: list[Attempt]) -> StageTime:
    """Add up the attempts of one stage."""
    return StageTime(sum(attempt.seconds for attempt in attempts),
                     sum(attempt.seconds * attempt.world_size for attempt in attempts) / 3600,
                     ", ".join(dict.fromkeys(attempt.device for attempt in attempts)), len(attempts), True)


def stage_flops(cost: Cost) -> dict[str, int]:
    """Return the counted operations of each whole stage. Sampling has every checkpoint and sampler that is evaluated."""
    sampling = {"sample": cost.sampling_flops} if cost.sampling_flops else {}  # not every kind draws samples
    return {"train": cost.training_flops, **sampling, "evaluate": cost.forward_flops * cost.evaluate_forward_passes}


@dataclass(frozen=True)
class SamplingCost:
    """The cost of drawing all samples of a run once, by a chain of some length."""

    steps: int
    flops: int
    seconds: float | None
    """In proportion to the measured time of the run's sampling; None where that is not known."""


def sampling_costs(run: RunReport, times: dict[str, StageTime]) -> list[SamplingCost]:
    """Return the costs of shorter chains and the full one, with one evaluation a step, and of the run's own."""
    spec, cost = run.known_spec, run.cost
    if cost is None or not draws_samples(spec):
        return []
    measured = run.state == "done" and "sample" in times and times["sample"].recorded
    per_flop = times["sample"].seconds / cost.sampling_flops if measured else None
    evaluations: dict[int, float] = {steps: steps for steps in sampling_lengths(spec, cost.sampling_steps)}
    evaluations[cost.sampling_steps] = cost.evaluations
    flops = {steps: round(cost.forward_flops * spec.sample.num_samples * number) for steps, number in evaluations.items()}
    return [SamplingCost(steps, flops[steps], None if per_flop is None else per_flop * flops[steps]) for steps in flops]


def achieved_flops(run: RunReport, log: BoardLog) -> tuple[float, float | None] | None:
    """Return the counted training operations per second at the median logged speed, and their share of the devices' peak.

    The share is None where the peak is not known. Returns None where no speed is logged, or nothing can be counted.
    """
    speeds = sorted(log.scalars.get("images_per_second", {}).values())
    cost = run.cost
    if not speeds or cost is None:
        return None
    train = run.known_spec.train
    achieved = speeds[len(speeds) // 2] * cost.training_step_flops / train.batch_size
    last = next((attempt for attempt in reversed(run.attempts) if attempt.stage == "train"), None)
    peaks = PEAKS.get(train.precision, {})
    peak = next((peak for name, peak in peaks.items() if last and last.device.startswith(name)), None)
    return achieved, achieved / (peak * last.world_size) if peak and last else None


@dataclass(frozen=True)
class LayerGroup:
    """The network's layers of one kind at one resolution."""

    resolution: int
    kind: str
    layers: int
    parameters: int
    flops: int
    """One forward pass of one image."""
    activations: int
    """Bytes kept for the backward pass of one image, in fp32."""
    checkpointed: int
    """Bytes kept with gradient checkpointing, without the block that is recomputed."""


def layer_groups(spec: Spec) -> list[LayerGroup]:
    """Return the groups of the network that samples: highest resolution first, embeddings last."""
    groups: dict[tuple[int, str], list[LayerCost]] = {}
    for layer in layers_of(spec):
        groups.setdefault((layer.resolution, layer.kind), []).append(layer)
    highest_first = sorted(groups.items(), key=lambda item: -item[0][0])
    return [LayerGroup(resolution, kind, len(layers), sum(layer.parameters for layer in layers),
                       sum(layer.flops for layer in layers), FP32 * sum(layer.activations for layer in layers),
                       FP32 * sum(layer.checkpointed_activations for layer in layers))
            for (resolution, kind), layers in highest_first]


def with_checkpointing(spec: Spec, where: bool | list[int]) -> Cost | None:
    """Count `spec` as if train.gradient_checkpointing were `where`."""
    return run_cost(spec.model_copy(update={"train": spec.train.model_copy(update={"gradient_checkpointing": where})}))


@dataclass(frozen=True)
class Growth:
    """The factors by which the network grows when the size called `doubled` doubles."""

    doubled: str
    parameters: float
    flops: float
    activations: float


def growths(spec: Spec) -> list[Growth]:
    """Count the network with one size doubled; nothing is approximated."""
    before = _sums(spec)
    return [Growth(what, *(new / old for new, old in zip(_sums(larger), before, strict=True)))
            for what, larger in doubled(spec).items()]


def _sums(spec: Spec) -> Sequence[int]:
    """Return the parameters, operations and activations of all layers."""
    layers = layers_of(spec)
    return [sum(layer.parameters for layer in layers), sum(layer.flops for layer in layers),
            sum(layer.activations for layer in layers)]
