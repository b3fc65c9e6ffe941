"""What a run cost as measured, beside what jobs.cost.count counts from its spec."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.cost.count import FP32, Cost, run_cost
from jobs.kinds.diffusion.layers import unet_layers
from jobs.report.board import BoardLog
from jobs.report.run import RunReport
from jobs.spec.kinds import kind_of
from jobs.spec.samplings import samplings, with_sampling
from jobs.spec.sections import Spec

# Dense peak of half-precision matrix products, FLOP/s, by what torch calls the device (NVIDIA's data sheets).
PEAK_HALF = {"NVIDIA H200": 989e12, "NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA A100": 312e12,
             "Tesla V100": 125e12, "NVIDIA L40S": 362e12, "NVIDIA GeForce RTX 4090": 165e12}
CHAINS = (25, 50, 100, 250, 1000)


@dataclass(frozen=True)
class StageTime:
    seconds: float
    """Wall time of all attempts together."""
    process_hours: float
    """Times the processes: GPU hours where each has one."""
    device: str
    attempts: int
    recorded: bool
    """From stages.jsonl; else told from the training log."""


def stage_times(run: RunReport, log: BoardLog | None) -> dict[str, StageTime]:
    """By stage, of those that are known. `log` helps for runs of before there was a stages.jsonl."""
    times = {}
    for stage in dict.fromkeys(attempt.stage for attempt in run.attempts):
        ours = [attempt for attempt in run.attempts if attempt.stage == stage]
        times[stage] = StageTime(sum(attempt.seconds for attempt in ours),
                                 sum(attempt.seconds * attempt.world_size for attempt in ours) / 3600,
                                 ", ".join(dict.fromkeys(attempt.device for attempt in ours)), len(ours), True)
    if "train" not in times and log and run.spec and (seconds := log.training_seconds):
        times["train"] = StageTime(seconds, seconds * run.spec.resources.train.world_size / 3600, "", 1, False)
    return times


def stage_flops(run: RunReport) -> dict[str, int]:
    """Counted operations of the whole stage; sampling with every checkpoint and sampler that was evaluated."""
    cost = run_cost(run.spec)
    return {"train": cost.training_flops,
            "sample": cost.forward_flops * run.spec.sample.num_samples * sampled_steps(run.spec),
            "evaluate": cost.forward_flops * cost.evaluate_forward_passes}


def sampled_steps(spec: Spec) -> int:
    """Of all samplings of the run together, for one sample each."""
    return sum(kind_of(spec).evaluations(with_sampling(spec, sampling)) for sampling in samplings(spec))


def sampling_costs(run: RunReport, times: dict[str, StageTime]) -> list[tuple[int, int, float | None]]:
    """To draw all samples by shorter chains and the full one: steps, FLOPs, and seconds in proportion to the measured stage."""
    spec, cost = run.spec, run_cost(run.spec)
    images, full = spec.sample.num_samples, spec.diffusion.diffusion_steps
    measured = run.state == "done" and "sample" in times and times["sample"].recorded
    second = times["sample"].seconds / (images * sampled_steps(spec)) if measured else None
    return [(steps, cost.forward_flops * images * steps, second and second * images * steps)
            for steps in sorted({*(steps for steps in CHAINS if steps < full), cost.sampling_steps, full})]


def achieved_flops(run: RunReport, log: BoardLog) -> tuple[float, float | None] | None:
    """Counted training operations per second at the median logged speed, and their share of the devices' peak if known."""
    speeds = sorted(log.scalars.get("images_per_second", {}).values())
    if not speeds or not run.spec:
        return None
    train, cost = run.spec.train, run_cost(run.spec)
    achieved = speeds[len(speeds) // 2] * cost.training_step_flops / train.batch_size
    last = next((attempt for attempt in reversed(run.attempts) if attempt.stage == "train"), None)
    peak = next((peak for name, peak in PEAK_HALF.items() if last and last.device.startswith(name)), None)
    return achieved, achieved / (peak * last.world_size) if peak and train.precision != "fp32" else None


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
    """The same with gradient checkpointing, without the block that is recomputed."""


def layer_groups(spec: Spec) -> list[LayerGroup]:
    """Highest resolution first, embeddings last."""
    layers = unet_layers(spec)
    keys = dict.fromkeys((layer.resolution, layer.kind) for layer in layers)
    groups = []
    for resolution, kind in sorted(keys, key=lambda key: -key[0]):
        ours = [layer for layer in layers if (layer.resolution, layer.kind) == (resolution, kind)]
        groups.append(LayerGroup(
            resolution, kind, len(ours), sum(layer.parameters for layer in ours), sum(layer.flops for layer in ours),
            FP32 * sum(layer.activations for layer in ours), FP32 * sum(layer.checkpointed_activations for layer in ours)))
    return groups


def with_checkpointing(spec: Spec, where: bool | list[int]) -> Cost:
    return run_cost(spec.model_copy(update={"train": spec.train.model_copy(update={"gradient_checkpointing": where})}))


@dataclass(frozen=True)
class Growth:
    """By what factor something grows when `what` doubles."""

    what: str
    parameters: float
    flops: float
    activations: float


def growths(spec: Spec) -> list[Growth]:
    """Counted, not approximated: the same network with one size doubled."""
    data, model = spec.data, spec.model
    attended = [2 * size for size in model.attention_resolutions]
    larger = {"image size (attention at the same levels)": {
                  "data": data.model_copy(update={"image_size": 2 * data.image_size}),
                  "model": model.model_copy(update={"attention_resolutions": attended})},
              "num_channels": {"model": model.model_copy(update={"num_channels": 2 * model.num_channels})},
              "image channels": {"data": data.model_copy(update={"channels": 2 * data.channels})}}
    before = _sums(spec)
    return [Growth(what, *(new / old for new, old in zip(_sums(spec.model_copy(update=update)), before)))
            for what, update in larger.items()]


def _sums(spec: Spec) -> Sequence[int]:
    layers = unet_layers(spec)
    return [sum(layer.parameters for layer in layers), sum(layer.flops for layer in layers),
            sum(layer.activations for layer in layers)]
