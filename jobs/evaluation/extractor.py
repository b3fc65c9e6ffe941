"""A feature extractor, and the forms in which a network may give its features."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor

from jobs.errors import UserError

Parts = dict[str, Tensor]
"""Features of n images: pool [n, D], spatial [n, S], probabilities [n, classes]; only those that exist and are wanted."""

_KEYS = ("pool", "spatial", "logits")
SPATIAL_CHANNELS = 7  # the first channels of the spatial maps, as sFID takes them of Inception


class Extractor(NamedTuple):
    extract: Callable[[Tensor, Collection[str]], Parts]
    """Takes uint8 [n, C, H, W] on the device, and the parts that are wanted."""
    note: str
    """Where the features come from, for a reader of a number that rests on them."""
    sha256: str | None
    """Of the file that the network was read from."""


def parts_of_output(output: object, source: str, images: int) -> Parts:
    """Features by part from the output of a network for `images` images.

    The output is one tensor (pool), a tuple (pool, spatial, logits) or a dictionary with some of these keys. Raises
    UserError, which names `source`, for any other form.
    """
    if isinstance(output, Tensor):
        output = {"pool": output}
    if isinstance(output, tuple) and len(output) == len(_KEYS):
        output = dict(zip(_KEYS, output, strict=True))
    if not (isinstance(output, dict) and "pool" in output and output.keys() <= set(_KEYS)
            and all(_is_of_images(part, images) for part in output.values())):
        raise UserError(f"{source}: must give one tensor of features for {images} images, (pool, spatial, logits) or a "
                        f"dictionary of these, not {_describe(output)}")
    parts = {"pool": output["pool"].flatten(1)}
    if "spatial" in output:
        spatial = output["spatial"]
        parts["spatial"] = (spatial[:, :SPATIAL_CHANNELS] if spatial.dim() == 4 else spatial).flatten(1)
    if "logits" in output:
        parts["probabilities"] = output["logits"].flatten(1).double().softmax(dim=1)
    return parts


def probabilities_of_output(output: object, source: str, images: int) -> Tensor:
    """Return an output that should be class probabilities [images, classes]. Raises UserError for any other form."""
    if not (isinstance(output, Tensor) and _is_of_images(output, images) and output.dim() == 2):
        raise UserError(f"{source}: no_output_bias must give class probabilities of {images} images, not {_describe(output)}")
    return output


def _is_of_images(part: object, images: int) -> bool:
    """Whether `part` is a dense tensor [images, ...] of real numbers with at least one value per image."""
    return (isinstance(part, Tensor) and part.layout == torch.strided and not part.is_complex() and not part.is_quantized
            and part.dim() >= 2 and len(part) == images and part.numel() > 0)


def _describe(output: object) -> str:
    """The output's form in words: "tensor [2, 3, 8, 8]"."""
    if isinstance(output, Tensor):
        kind = "complex " if output.is_complex() else "sparse " if output.layout != torch.strided else ""
        return f"{kind}tensor {list(output.shape)}"
    if isinstance(output, dict):
        return "{" + ", ".join(f"{key}: {_describe(value)}" for key, value in output.items()) + "}"
    if isinstance(output, tuple):
        return "(" + ", ".join(map(_describe, output)) + ")"
    return type(output).__name__
