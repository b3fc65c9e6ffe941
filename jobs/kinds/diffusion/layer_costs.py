"""Every layer of the U-Net (diffusion/networks/unet.py) and of its half (half_unet.py), counted without torch."""

from diffusion.networks.pools import HIDDEN
from jobs.kinds.diffusion.network_section import NetworkAsWritten, widths
from jobs.kinds.diffusion.sections import DiffusionSpec, has_null_class
from jobs.spec.layer_cost import LayerCost
from jobs.spec.sections import Data


def unet_layers(spec: DiffusionSpec, images: int = 1) -> list[LayerCost]:
    """Return every layer of the network of `spec`, in the order of its state dict. `images`: how many it takes at a time."""
    model, data = spec.model, spec.data
    layers, skips = _encoder(model, data, data.classes + has_null_class(spec) if data.classes else None, images)
    resolution, channels = layers[-1].resolution, layers[-1].channels
    blocks = len(skips)
    for level, width in reversed(list(enumerate(widths(model)))):
        for index in range(model.num_res_blocks + 1):
            block = f"output_blocks.{blocks - len(skips)}"
            layers.append(_res_block(f"{block}.0", resolution, channels, width, model, skips.pop()))
            channels = width
            attended = resolution in model.attention_resolutions
            if attended:
                layers.append(_attention(f"{block}.1", resolution, channels))
            if level > 0 and index == model.num_res_blocks:
                resolution *= 2
                name = f"{block}.{1 + attended}"
                layers.append(_res_block(name, resolution, channels, channels, model, entering=resolution // 2)
                              if model.resblock_updown else _conv(name, "upsample", resolution, channels, channels))
    return [*layers, _out(resolution, channels, data.channels * (1 + model.learn_sigma))]


def half_unet_layers(model: NetworkAsWritten, data: Data, classes: int, pool: str) -> list[LayerCost]:
    """Return every layer of the half U-Net with this `pool` (of diffusion.networks.pools.POOLS), in its state dict's order."""
    layers, outputs = _encoder(model, data, None)
    deepest = layers[-1]
    if pool == "attention":
        return [*layers, _attention_pool(deepest.resolution, deepest.channels, classes)]
    if pool == "adaptive":
        return [*layers, _adaptive_pool(deepest.resolution, deepest.channels, classes)]
    return [*layers, _spatial_pool(sum(outputs) + deepest.channels, classes, with_norm=pool == "spatial_v2")]


def _encoder(model: NetworkAsWritten, data: Data, classes: int | None,
             images: int = 1) -> tuple[list[LayerCost], list[int]]:
    """Return the layers up to the middle block, and the channels of the outputs of the input blocks."""
    levels = widths(model)
    resolution, channels = data.image_size, levels[0]
    layers = [embedding_layer("time_embed", model)]
    if classes:
        hidden = 4 * model.num_channels
        layers.append(LayerCost("label_emb", "time", 1, hidden, classes * hidden, 1, 0, 0, 0))
    layers.append(_conv("input_blocks.0.0", "conv", resolution, images * data.channels, channels))
    outputs = [channels]
    for level, width in enumerate(levels):
        for _ in range(model.num_res_blocks):
            block = f"input_blocks.{len(outputs)}"
            layers.append(_res_block(f"{block}.0", resolution, channels, width, model))
            channels = width
            if resolution in model.attention_resolutions:
                layers.append(_attention(f"{block}.1", resolution, channels))
            outputs.append(channels)
        if level < len(levels) - 1:
            resolution //= 2
            name = f"input_blocks.{len(outputs)}.0"
            layers.append(_res_block(name, resolution, channels, channels, model, entering=2 * resolution)
                          if model.resblock_updown else _conv(name, "downsample", resolution, channels, channels, stride=2))
            outputs.append(channels)
    layers.append(_res_block("middle_block.0", resolution, channels, channels, model))
    layers.append(_attention("middle_block.1", resolution, channels))
    layers.append(_res_block("middle_block.2", resolution, channels, channels, model))
    return layers, outputs


def embedding_layer(name: str, model: NetworkAsWritten) -> LayerCost:
    """Count the embedding of a number, such as t: Linear, SiLU, Linear."""
    width, hidden = model.num_channels, 4 * model.num_channels
    products = width * hidden + hidden * hidden
    kept = width + 2 * hidden
    return LayerCost(name, "time", 1, hidden, products + 2 * hidden, 4, 2 * products, kept, kept)


def _conv(name: str, kind: str, resolution: int, in_channels: int, out_channels: int, stride: int = 1) -> LayerCost:
    """Count a 3x3 convolution whose output has `resolution`."""
    products = 9 * in_channels * out_channels  # per pixel
    kept = in_channels * (stride * resolution) ** 2
    return LayerCost(name, kind, resolution, out_channels, products + out_channels, 2,
                     2 * products * resolution ** 2, kept, kept)


def _res_block(name: str, resolution: int, channels: int, out_channels: int, model: NetworkAsWritten, skip: int = 0,
               entering: int | None = None) -> LayerCost:
    """Count a residual block: norm, SiLU, conv; the embedding is added; norm, SiLU, dropout, conv; the input is added, after
    a 1x1 convolution if the number of channels changes.

    In the decoder, `skip` channels of the encoder's output are joined to the `channels` of the input. Where the input has another
    resolution than the output, `entering`, both it and what the first convolution takes are resized.
    """
    pixels, embedding, in_channels = resolution ** 2, 4 * model.num_channels, channels + skip
    before = (entering or resolution) ** 2  # pixels of the input
    pooled = before if before > pixels else 0  # averaging keeps what it averages: SiLU's output, and the input in half precision
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
        # The inputs of norm, SiLU and convolution, twice; those of scale and dropout, if used.
        activations=(2 * before + pooled + pixels) * in_channels
        + pixels * (3 + model.use_scale_shift_norm + dropout) * out_channels,
        # The input; in the decoder also the output of the first convolution. `skip` is counted where it is another input.
        checkpointed_activations=before * channels + (pixels * out_channels if skip else 0),
        recomputed_flops=2 * ((one_by_one if skip else first + one_by_one) * pixels + embedding * projected),
        norm_inputs=before * in_channels + pixels * (out_channels + changed * in_channels)  # the 1x1 keeps a half copy
        + pooled * in_channels,
        recomputable=True,
    )


def _attention(name: str, resolution: int, channels: int) -> LayerCost:
    """Count an attention block: norm; queries, keys and values; attention between all pixels; projection; the input is added."""
    pixels, products = resolution ** 2, 4 * channels ** 2  # products per pixel
    return LayerCost(
        name, "attention", resolution, channels,
        parameters=products + 6 * channels,
        tensors=6,
        flops=2 * products * pixels + 4 * channels * pixels ** 2,
        # Input and output of the norm; queries, keys, values and their result. Fast kernels keep no pixels x pixels matrix.
        activations=6 * channels * pixels,
        checkpointed_activations=channels * pixels,
        recomputed_flops=2 * 3 * channels ** 2 * pixels + 4 * channels * pixels ** 2,  # all but the projection
        norm_inputs=channels * pixels,
        recomputable=True,
    )


def _out(resolution: int, channels: int, out_channels: int) -> LayerCost:
    """Count the output block: norm, SiLU, conv."""
    products, entering = 9 * channels * out_channels, channels * resolution ** 2
    return LayerCost("out", "out", resolution, out_channels, products + out_channels + 2 * channels, 4,
                     2 * products * resolution ** 2, 3 * entering, 3 * entering, entering)


def _attention_pool(resolution: int, channels: int, classes: int) -> LayerCost:
    """Count norm, SiLU, and the attention of the mean to itself and all pixels: one query; a projection to the classes."""
    pixels = resolution ** 2
    tokens, entering = pixels + 1, channels * pixels
    products = channels ** 2 + 2 * channels ** 2 * tokens + 2 * channels * tokens + channels * classes
    parameters = channels * tokens + 3 * channels ** 2 + 3 * channels + channels * classes + classes + 2 * channels
    kept = 2 * entering + 3 * channels * tokens + 4 * channels
    return LayerCost("out", "out", 1, classes, parameters, 7, 2 * products, kept, kept, entering)


def _adaptive_pool(resolution: int, channels: int, classes: int) -> LayerCost:
    """Count norm, SiLU, the mean over pixels, and a projection to the classes."""
    products, entering = channels * classes, channels * resolution ** 2
    kept = 3 * entering + channels
    return LayerCost("out", "out", 1, classes, products + classes + 2 * channels, 4, 2 * products, kept, kept, entering)


def _spatial_pool(features: int, classes: int, with_norm: bool) -> LayerCost:
    """Count the means of all blocks' outputs, joined: Linear, ReLU or norm and SiLU, Linear."""
    products = features * HIDDEN + HIDDEN * classes
    parameters = products + HIDDEN + classes + (2 * HIDDEN if with_norm else 0)
    kept = features + (3 if with_norm else 1) * HIDDEN
    return LayerCost("out", "out", 1, classes, parameters, 6 if with_norm else 4, 2 * products, kept, kept,
                     HIDDEN if with_norm else 0)
