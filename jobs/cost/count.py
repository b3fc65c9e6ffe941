"""What a run costs, counted from its spec alone: parameters, operations, memory and disk. No torch, no timing.

`unet_layers` counts each layer of the network in diffusion/unet.py; `run_cost` adds them up. One operation (flop) is
half a multiply-add, of matrix products, convolutions and attention's two products only, as torch.utils.flop_counter
counts them.
"""

from dataclasses import astuple, dataclass
from math import ceil

from jobs.spec.samplings import chain_length, likelihoods, samplings
from jobs.spec.sections import Model, Spec, Train

FP32, HALF = 4, 2  # bytes


@dataclass(frozen=True)
class LayerCost:
    name: str
    """Prefix of its keys in the state dict, such as "input_blocks.1.0"."""
    kind: str
    """time (label_emb too), conv, res, attention, downsample, upsample or out."""
    resolution: int
    """Of its output, as is channels; 1 for embeddings."""
    channels: int
    parameters: int
    tensors: int
    """Keys in the state dict."""
    flops: int
    """Of one forward pass of one image."""
    activations: int
    """Elements per image that autograd keeps for the backward pass."""
    checkpointed_activations: int
    """The same with gradient checkpointing, where it takes part in that (see `ResBlock` in diffusion/layers.py)."""
    recomputed_flops: int = 0
    """Run again in the backward pass of one image with gradient checkpointing."""
    norm_inputs: int = 0
    """Those of `activations` that stay fp32 in mixed precision; counted twice where a half copy is kept as well."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on one rank, each item at its most. Without the kernels' workspace, DDP's buckets and fragmentation."""

    parameters: int
    half_parameters: int
    """Autocast's copy; 0 in fp32."""
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
    """What the backward pass of one image runs again: 0 without gradient checkpointing."""
    training_step_flops: int
    """The global batch, forward and backward."""
    training_flops: int
    sampling_steps: int
    """Of the main sampling's respaced chain."""
    sampling_flops: int
    """Of all points."""
    evaluate_forward_passes: int
    """Images through the network for bits/dim: every training timestep of every example."""
    training_memory: TrainingMemory
    chunks: int
    """Of one sampling."""
    samples_bytes: int
    """The arrays of one sampling's samples.h5."""
    checkpoint_bytes: int
    """Weights, their averages and the optimizer's moments, in fp32."""


def run_cost(spec: Spec) -> Cost:
    """What the run `spec` (resolved, without contradictions) costs."""
    data, train, sample = spec.data, spec.train, spec.sample
    layers = unet_layers(spec)
    parameters = sum(layer.parameters for layer in layers)
    forward = sum(layer.flops for layer in layers)
    # A backward pass has two products for each of the forward's: one for the weights, one for the input.
    recomputed = sum(layer.recomputed_flops for layer in layers if _is_checkpointed(layer, train))
    step = (3 * forward + recomputed) * train.batch_size
    steps = [chain_length(spec, sampling.timestep_respacing) for sampling in samplings(spec)]
    bounds = sum(chain_length(spec, timestep_respacing) for _, timestep_respacing in likelihoods(spec))
    bytes_per_sample = data.image_size ** 2 * data.channels + 8 + (8 if data.class_cond else 0)  # image, index, label
    return Cost(
        parameters=parameters,
        tensors=sum(layer.tensors for layer in layers),
        forward_flops=forward,
        recomputed_flops=recomputed,
        training_step_flops=step,
        training_flops=step * train.iterations,
        sampling_steps=steps[0],
        sampling_flops=forward * sample.num_samples * sum(steps),
        evaluate_forward_passes=spec.evaluate.nll_examples * bounds,
        training_memory=_training_memory(spec, layers),
        chunks=ceil(sample.num_samples / sample.batch_size),
        samples_bytes=sample.num_samples * bytes_per_sample,
        checkpoint_bytes=FP32 * parameters * (1 + len(train.ema_rate) + 2),
    )


def stored_bytes(spec: Spec) -> int:
    """What a run leaves on disk: the checkpoints that are kept, and all samples as chunks, samples.h5 and one .npz."""
    cost, sampled = run_cost(spec), samplings(spec)
    kept = 2 + len({sampling.step for sampling in sampled}) + spec.train.iterations // (spec.train.keep_interval or spec.train.iterations)
    return kept * cost.checkpoint_bytes + (2 * len(sampled) + 1) * cost.samples_bytes


def _training_memory(spec: Spec, layers: list[LayerCost]) -> TrainingMemory:
    train, mixed = spec.train, spec.train.precision != "fp32"
    parameters = sum(layer.parameters for layer in layers)
    examples = train.microbatch or train.batch_size // spec.resources.train.world_size
    return TrainingMemory(
        parameters=FP32 * parameters,
        half_parameters=HALF * parameters if mixed else 0,
        gradients=FP32 * parameters,
        optimizer=2 * FP32 * parameters,
        ema=len(train.ema_rate) * FP32 * parameters,
        activations=examples * _activation_bytes(layers, mixed, train),
    )


def _is_checkpointed(layer: LayerCost, train: Train) -> bool:
    where = train.gradient_checkpointing
    return layer.kind in ("res", "attention") and (where if isinstance(where, bool) else layer.resolution in where)


def _activation_bytes(layers: list[LayerCost], mixed: bool, train: Train) -> int:
    """Kept for the backward pass, per image."""
    element = HALF if mixed else FP32
    whole = {layer: element * layer.activations + (FP32 - element) * layer.norm_inputs for layer in layers}
    again = [layer for layer in layers if _is_checkpointed(layer, train)]
    kept = sum(element * layer.checkpointed_activations if layer in again else whole[layer] for layer in layers)
    # The backward pass computes anew one layer at a time; the largest counts.
    return kept + max((whole[layer] for layer in again), default=0)


def unet_layers(spec: Spec) -> list[LayerCost]:
    """Every layer of the network of `spec` (resolved), in the order of its state dict."""
    model, data = spec.model, spec.data
    resolution, channels = data.image_size, model.num_channels
    layers = [_time_embed(model)]
    if data.class_cond:
        layers.append(LayerCost("label_emb", "time", 1, 4 * channels, data.num_classes * 4 * channels, 1, 0, 0, 0))

    layers.append(_conv("input_blocks.0.0", "conv", resolution, data.channels, channels))
    skips = [channels]  # channels of the outputs of the input blocks
    widths = [mult * model.num_channels for mult in model.channel_mult]
    for level, width in enumerate(widths):
        for _ in range(model.num_res_blocks):
            block = f"input_blocks.{len(skips)}"
            layers.append(_res_block(f"{block}.0", resolution, channels, width, model))
            channels = width
            if resolution in model.attention_resolutions:
                layers.append(_attention(f"{block}.1", resolution, channels))
            skips.append(channels)
        if level < len(widths) - 1:
            resolution //= 2
            layers.append(_conv(f"input_blocks.{len(skips)}.0", "downsample", resolution, channels, channels, stride=2))
            skips.append(channels)

    layers.append(_res_block("middle_block.0", resolution, channels, channels, model))
    layers.append(_attention("middle_block.1", resolution, channels))
    layers.append(_res_block("middle_block.2", resolution, channels, channels, model))

    blocks = len(skips)
    for level, width in reversed(list(enumerate(widths))):
        for index in range(model.num_res_blocks + 1):
            block = f"output_blocks.{blocks - len(skips)}"
            layers.append(_res_block(f"{block}.0", resolution, channels, width, model, skips.pop()))
            channels = width
            attended = resolution in model.attention_resolutions
            if attended:
                layers.append(_attention(f"{block}.1", resolution, channels))
            if level > 0 and index == model.num_res_blocks:
                resolution *= 2
                layers.append(_conv(f"{block}.{1 + attended}", "upsample", resolution, channels, channels))

    return [*layers, _out(resolution, channels, data.channels * (1 + model.learn_sigma))]


def _time_embed(model: Model) -> LayerCost:
    """Linear, SiLU, Linear."""
    width, hidden = model.num_channels, 4 * model.num_channels
    products = width * hidden + hidden * hidden
    kept = width + 2 * hidden
    return LayerCost("time_embed", "time", 1, hidden, products + 2 * hidden, 4, 2 * products, kept, kept)


def _conv(name: str, kind: str, resolution: int, in_channels: int, out_channels: int, stride: int = 1) -> LayerCost:
    """A 3x3 convolution whose output has `resolution`."""
    products = 9 * in_channels * out_channels  # per pixel
    kept = in_channels * (stride * resolution) ** 2
    return LayerCost(name, kind, resolution, out_channels, products + out_channels, 2,
                     2 * products * resolution ** 2, kept, kept)


def _res_block(name: str, resolution: int, channels: int, out_channels: int, model: Model, skip: int = 0) -> LayerCost:
    """Norm, SiLU, conv; plus the embedding; norm, SiLU, dropout, conv; plus the input, by a 1x1 if channels change.

    On the way up `skip` channels of an input block's output are joined to the `channels` of its input.
    """
    pixels, embedding, in_channels = resolution ** 2, 4 * model.num_channels, channels + skip
    projected = out_channels * (1 + model.use_scale_shift_norm)
    changed, dropout = in_channels != out_channels, model.dropout > 0
    first, one_by_one = 9 * in_channels * out_channels, changed * in_channels * out_channels  # products per pixel
    products = first + 9 * out_channels ** 2 + one_by_one
    norms, biases = 2 * in_channels + 2 * out_channels, (2 + changed) * out_channels + projected
    return LayerCost(
        name, "res", resolution, out_channels,
        parameters=products + embedding * projected + norms + biases,
        tensors=10 + 2 * changed,
        flops=2 * (products * pixels + embedding * projected),
        # What enters norm, SiLU and convolution, twice; scale and dropout, where there are any.
        activations=pixels * (3 * in_channels + (3 + model.use_scale_shift_norm + dropout) * out_channels),
        # The input, and on the way up what the first convolution gives. That of `skip` is an input elsewhere too.
        checkpointed_activations=pixels * (channels + (out_channels if skip else 0)),
        recomputed_flops=2 * ((one_by_one if skip else first + one_by_one) * pixels + embedding * projected),
        norm_inputs=pixels * (in_channels + out_channels + changed * in_channels),  # the 1x1 keeps a half copy
    )


def _attention(name: str, resolution: int, channels: int) -> LayerCost:
    """Norm, queries, keys and values, attention of all pixels to all, projection; the input."""
    pixels, products = resolution ** 2, 4 * channels ** 2  # products per pixel
    return LayerCost(
        name, "attention", resolution, channels,
        parameters=products + 6 * channels,
        tensors=6,
        flops=2 * products * pixels + 4 * channels * pixels ** 2,
        # Norm's input and output, queries, keys, values and their result; fast kernels keep no pixels x pixels matrix.
        activations=6 * channels * pixels,
        checkpointed_activations=channels * pixels,
        recomputed_flops=2 * 3 * channels ** 2 * pixels + 4 * channels * pixels ** 2,  # all but the projection
        norm_inputs=channels * pixels,
    )


def _out(resolution: int, channels: int, out_channels: int) -> LayerCost:
    """Norm, SiLU, conv."""
    products, entering = 9 * channels * out_channels, channels * resolution ** 2
    return LayerCost("out", "out", resolution, out_channels, products + out_channels + 2 * channels, 4,
                     2 * products * resolution ** 2, 3 * entering, 3 * entering, entering)
