"""Every layer of the U-Net in diffusion/networks/unet.py, counted without torch."""

from jobs.kinds.diffusion.sections import DiffusionSpec, Model, has_null_class
from jobs.spec.layer_cost import LayerCost


def unet_layers(spec: DiffusionSpec) -> list[LayerCost]:
    """Return every layer of the network of `spec`, in the order of its state dict."""
    model, data = spec.model, spec.data
    resolution, channels = data.image_size, model.num_channels
    layers = [_time_embed(model)]
    if data.classes:
        rows = data.classes + has_null_class(spec)
        layers.append(LayerCost("label_emb", "time", 1, 4 * channels, rows * 4 * channels, 1, 0, 0, 0))

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
    """Count the embedding of t: Linear, SiLU, Linear."""
    width, hidden = model.num_channels, 4 * model.num_channels
    products = width * hidden + hidden * hidden
    kept = width + 2 * hidden
    return LayerCost("time_embed", "time", 1, hidden, products + 2 * hidden, 4, 2 * products, kept, kept)


def _conv(name: str, kind: str, resolution: int, in_channels: int, out_channels: int, stride: int = 1) -> LayerCost:
    """Count a 3x3 convolution whose output has `resolution`."""
    products = 9 * in_channels * out_channels  # per pixel
    kept = in_channels * (stride * resolution) ** 2
    return LayerCost(name, kind, resolution, out_channels, products + out_channels, 2,
                     2 * products * resolution ** 2, kept, kept)


def _res_block(name: str, resolution: int, channels: int, out_channels: int, model: Model, skip: int = 0) -> LayerCost:
    """Count a residual block: norm, SiLU, conv; the embedding is added; norm, SiLU, dropout, conv; the input is added, after
    a 1x1 convolution if the number of channels changes.

    In the decoder, `skip` channels of the encoder's output are joined to the `channels` of the input.
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
        # The inputs of norm, SiLU and convolution, twice; those of scale and dropout, if used.
        activations=pixels * (3 * in_channels + (3 + model.use_scale_shift_norm + dropout) * out_channels),
        # The input; in the decoder also the output of the first convolution. `skip` is counted where it is another input.
        checkpointed_activations=pixels * (channels + (out_channels if skip else 0)),
        recomputed_flops=2 * ((one_by_one if skip else first + one_by_one) * pixels + embedding * projected),
        norm_inputs=pixels * (in_channels + out_channels + changed * in_channels),  # the 1x1 keeps a half copy
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
