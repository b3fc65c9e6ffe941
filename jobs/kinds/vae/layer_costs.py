"""Every layer of the variational autoencoder (diffusion/networks/vae.py), counted without torch."""

from math import prod

from diffusion.baselines.decoders import DECODERS
from jobs.kinds.diffusion.network_section import widths
from jobs.kinds.vae.sections import VaeSpec, latent_shape
from jobs.spec.layer_cost import LayerCost

LIKELIHOOD = {"discretized_gaussian": 17, "gaussian": 5}
"""By decoder: elements for each value of an image that autograd keeps of the likelihood (diffusion.baselines.elbo)."""


def encoder_layers(spec: VaeSpec) -> list[LayerCost]:
    """Return every layer of the encoder, in the order of its state dict."""
    levels, side, data = widths(spec.model), spec.data.image_size, spec.data
    layers, before = [_conv("encoder.first", "conv", side, data.channels, levels[0])], levels[0]
    for level, width in enumerate(levels):
        stage = f"encoder.stages.{level}"
        for index in range(spec.model.num_res_blocks):
            layers.append(_block(f"{stage}.{index}", side, before, width, data.classes))
            before = width
        if level < len(levels) - 1:
            side //= 2
            layers.append(_conv(f"{stage}.{spec.model.num_res_blocks}", "downsample", side, width, width, stride=2))
    latent = latent_shape(spec)
    outputs = 2 * latent[0] * (side ** 2 if len(latent) == 3 else 1)
    weights = _to_latent(spec, side, before)
    products = weights * (side ** 2 if len(latent) == 3 else 1)
    entering = before * side ** 2
    return [*layers, LayerCost("encoder.out", "out", side if len(latent) == 3 else 1, 2 * latent[0],
                               weights + 2 * latent[0] + 2 * before, 4, 2 * products, 3 * entering + 2 * outputs,
                               3 * entering + 2 * outputs, norm_inputs=entering + 2 * outputs)]


def decoder_layers(spec: VaeSpec) -> list[LayerCost]:
    """Return every layer of the decoder, in the order of its state dict."""
    levels, data, latent = widths(spec.model), spec.data, latent_shape(spec)
    scaled = DECODERS[spec.vae.decoder].scale_per_value
    side, before = data.image_size >> len(levels) - 1, levels[-1]
    layers = [LayerCost("decoder.log_sigma", "out", 1, 1, 1, 1, 0, 0, 0)] if not scaled else []
    weights = _to_latent(spec, side, before) // 2
    if len(latent) == 3:
        layers.append(_conv("decoder.first", "conv", side, latent[0], before))
    else:
        layers.append(LayerCost("decoder.first", "dense", side, before, weights + before * side ** 2, 2, 2 * weights,
                                prod(latent), prod(latent)))
    if data.classes:
        layers.append(LayerCost("decoder.label_emb", "class", side, before, data.classes * before * side ** 2, 1, 0, 0, 0))
    for number, (level, width) in enumerate(reversed(list(enumerate(levels)))):
        stage = f"decoder.stages.{number}"
        for index in range(spec.model.num_res_blocks):
            layers.append(_block(f"{stage}.{index}", side, before, width, data.classes))
            before = width
        if level > 0:
            side *= 2
            layers.append(_conv(f"{stage}.{spec.model.num_res_blocks}", "upsample", side, width, width))
    out_channels, entering = data.channels * (1 + scaled), before * side ** 2
    products = 9 * before * out_channels
    # Beside the inputs of norm, SiLU and convolution: those of the likelihood, which stays in float32.
    likelihood = LIKELIHOOD[spec.vae.decoder] * data.channels * side ** 2
    return [*layers, LayerCost("decoder.out", "out", side, out_channels, products + out_channels + 2 * before, 4,
                               2 * products * side ** 2, 3 * entering + likelihood, 3 * entering + likelihood,
                               norm_inputs=entering + likelihood)]


def _to_latent(spec: VaeSpec, side: int, channels: int) -> int:
    """Return the weights of the layer from the deepest level to mean and log variance: a convolution, or a dense layer."""
    return 2 * spec.vae.latent_channels * channels * (side ** 2 if spec.vae.latent == "vector" else 9)


def _conv(name: str, kind: str, resolution: int, in_channels: int, out_channels: int, stride: int = 1) -> LayerCost:
    """Count a 3x3 convolution whose output has `resolution`."""
    products, kept = 9 * in_channels * out_channels, in_channels * (stride * resolution) ** 2
    return LayerCost(name, kind, resolution, out_channels, products + out_channels, 2, 2 * products * resolution ** 2, kept, kept)


def _block(name: str, resolution: int, channels: int, out_channels: int, classes: int | None) -> LayerCost:
    """Count a residual block: norm, SiLU, conv; norm, with classes scale and shift, SiLU, conv; the input is added, after a 1x1
    convolution if the number of channels changes."""
    pixels, changed = resolution ** 2, channels != out_channels
    first, one_by_one = 9 * channels * out_channels, changed * channels * out_channels
    products = first + 9 * out_channels ** 2 + one_by_one
    labels = 2 * out_channels * (classes or 0)
    return LayerCost(
        name, "res", resolution, out_channels,
        parameters=products + 2 * channels + (4 + changed) * out_channels + labels,
        tensors=8 + 2 * changed + (classes is not None),
        flops=2 * products * pixels,
        # The inputs of norm, SiLU and convolution, twice; with classes that of the scale.
        activations=pixels * (3 * channels + (3 + (classes is not None)) * out_channels),
        checkpointed_activations=pixels * channels,
        recomputed_flops=2 * (first + one_by_one) * pixels,
        norm_inputs=pixels * (channels + out_channels + changed * channels),
        recomputable=True,
    )
