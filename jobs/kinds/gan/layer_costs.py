"""Every layer of a GAN's networks (diffusion/networks/gan.py), counted without torch."""

from itertools import pairwise

from diffusion.baselines.games import GAMES
from jobs.kinds.diffusion.network_section import widths
from jobs.kinds.gan.sections import GanSpec
from jobs.spec.kinds import MODEL
from jobs.spec.layer_cost import LayerCost

DISCRIMINATOR = "discriminator"
"""Name of the second network; the generator is MODEL."""
AVERAGED = (MODEL,)
"""The networks that have moving averages."""


def generator_layers(spec: GanSpec) -> list[LayerCost]:
    """Return the layers of the generator, in the order of its state dict."""
    latent, classes, levels = spec.gan.latent_size, spec.data.classes, list(reversed(widths(spec.model)))
    coarsest = spec.data.image_size >> (len(levels) - 1)
    outputs, inputs = levels[0] * coarsest ** 2, latent * (2 if classes else 1)
    layers = [_embedding(classes, latent)] if classes else []
    layers.append(LayerCost("start", "dense", coarsest, levels[0], (inputs + 1) * outputs, 2, 2 * inputs * outputs, inputs,
                            inputs))
    layers += _blocks(levels, [coarsest << level for level in range(len(levels))], spec.model.num_res_blocks)
    # A level's channels change before its image grows.
    layers += [_conv(f"changes.{level}", 1, coarsest << level, before, after, bias=False)
               for level, (before, after) in enumerate(pairwise(levels))]
    return [*layers, _conv("out", 3, spec.data.image_size, levels[-1], spec.data.channels, kept=2)]


def discriminator_layers(spec: GanSpec) -> list[LayerCost]:
    """Return the layers of the discriminator, in the order of its state dict."""
    size, levels = spec.data.image_size, widths(spec.model)
    resolutions = [size >> level for level in range(len(levels))]
    features = levels[-1] * resolutions[-1] ** 2
    kept = (3 if spec.data.classes else 2) * features  # before and after the activation, and the weights of each class
    layers = [LayerCost("score", "score", 1, 1, features, 1, 0, kept, kept),  # a sum of products, not counted as one
              _conv("enter", 3, size, spec.data.channels, levels[0])]
    layers += _blocks(levels, resolutions, spec.model.num_res_blocks)
    # A level's image shrinks before its channels change; averaging keeps the larger image.
    layers += [_conv(f"changes.{level}", 1, resolution, before, after, bias=False, kept=1 + 4)
               for level, (resolution, (before, after)) in enumerate(zip(resolutions[1:], pairwise(levels), strict=True))]
    return [*layers, _embedding(spec.data.classes, features)] if spec.data.classes else layers


def training_passes(spec: GanSpec) -> dict[str, int]:
    """Return what one example costs in a training step, in forward passes, by network.

    The discriminator's update: an image made, then two judged, with 3 passes each, or 6 where a penalty needs the gradient and
    its gradient. The generator's update: forward and backward through both networks, without gradients of the discriminator's
    weights, and where the game is paired a real image judged.
    """
    judged = sum(6 if gamma else 3 for gamma in (spec.gan.r1_gamma, spec.gan.r2_gamma))
    return {MODEL: 1 + 3, DISCRIMINATOR: judged + 2 + GAMES[spec.gan.loss].paired}


def kept_elements(spec: GanSpec) -> int:
    """Return how many elements per image autograd keeps at the peak of a training step: in the update of the discriminator, which
    judges two images, or in that of the generator, whose image is judged.

    For a penalty the gradients of all outputs are kept, too.
    """
    discriminator = discriminator_layers(spec)
    judged = sum(layer.activations for layer in discriminator)
    outputs = sum((2 if layer.kind == "res" else 1) * layer.channels * layer.resolution ** 2
                  for layer in discriminator if layer.kind in ("conv", "res"))
    penalised = sum(gamma > 0 for gamma in (spec.gan.r1_gamma, spec.gan.r2_gamma))
    image = spec.data.channels * spec.data.image_size ** 2
    return max(2 * judged + penalised * (outputs + image),
               sum(layer.activations for layer in generator_layers(spec)) + judged)


def _embedding(classes: int, width: int) -> LayerCost:
    return LayerCost("label_emb", "time", 1, width, classes * width, 1, 0, 0, 0)


def _conv(name: str, size: int, resolution: int, in_channels: int, out_channels: int, bias: bool = True,
          kept: int = 1) -> LayerCost:
    """Count a convolution that keeps the resolution; `kept`: how many of its inputs autograd keeps, that of an activation too."""
    products = size ** 2 * in_channels * out_channels
    inputs = kept * in_channels * resolution ** 2
    return LayerCost(name, "conv", resolution, out_channels, products + bias * out_channels, 1 + bias,
                     2 * products * resolution ** 2, inputs, inputs)


def _blocks(levels: list[int], resolutions: list[int], count: int) -> list[LayerCost]:
    """Count the residual blocks of all levels: activation, conv, activation, conv, all of equal shape."""
    return [LayerCost(f"levels.{level}.{block}", "res", resolution, width, 2 * (9 * width + 1) * width, 4,
                      2 * 2 * 9 * width ** 2 * resolution ** 2, 4 * width * resolution ** 2, 4 * width * resolution ** 2)
            for level, (width, resolution) in enumerate(zip(levels, resolutions, strict=True)) for block in range(count)]
