"""What names and shapes of weights tell of the network that they belong to, and what they do not tell. No torch here."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from diffusion.objectives import LOSSES
from jobs.spec.keys import written_at

Shapes = Mapping[str, Sequence[int]]
"""Of the tensors of a state dict, by name."""

DEPTH = "model.num_res_blocks"
ORDER = ("model.use_new_attention_order",
         "true for 64x64_diffusion of guided-diffusion, false for all other published networks")
HEADS = ("model.num_heads", "or model.num_head_channels (published: num_heads 4 in the networks of improved-diffusion, in "
         "128x128_diffusion and in 64_256_upsampler, num_head_channels 64 in the others of guided-diffusion)")
HEAD_CHANNELS = ("model.num_head_channels", "64 in the published classifiers; null where num_heads counts")
HEADS_UPSAMPLE = ("model.num_heads_upsample", "null in all published networks: as num_heads")
RESCALED = ("diffusion.rescale_timesteps", "true for cifar10_* and imagenet64_uncond* of improved-diffusion, else false")
PROCESS = (("diffusion.noise_schedule", "cosine or linear"), ("diffusion.diffusion_steps", "1000 or 4000 in published networks"))
PREDICT = ("diffusion.predict", "epsilon in all published networks")


def untold_by_weights(written: Mapping[str, Any], told: Mapping[str, Any], decoder: bool) -> dict[str, str]:
    """Return the settings that weights do not tell and that `written` (a spec's plain values) does not give, each with a hint.

    A wrong one loads and gives garbage. `told`: what the weights tell. `decoder`: whether the network is the whole U-Net, and not
    its half.
    """
    wanted = [ORDER]
    if told and DEPTH not in told:  # of a half U-Net: several depths could have its shapes
        wanted += [(f"model.{key}", "not to be seen in these weights")
                   for key in ("num_res_blocks", "channel_mult", "attention_resolutions", "resblock_updown")]
    if not decoder:
        wanted.append(HEAD_CHANNELS)
    if written_at(written, HEAD_CHANNELS[0]) == (True, None) or decoder and not written_at(written, HEAD_CHANNELS[0])[0]:
        wanted += [HEADS, *([HEADS_UPSAMPLE] if decoder else [])]
    wanted += [RESCALED, *PROCESS, *([PREDICT] if decoder else [])]
    return {key: hint for key, hint in wanted if not written_at(written, key)[0]}


def told_of_unet(shapes: Shapes, written: Mapping[str, Any], images: int = 1) -> dict[str, Any]:
    """Return the settings that the shapes of a whole U-Net tell, by dotted key; empty where they are not of one.

    `written`: the plain values of the spec, for image_size and loss. Where no loss is written, one is chosen that has a variance
    such as the weights. `images`: how many the network takes at a time.
    """
    if "out.2.weight" not in shapes or "output_blocks.0.0.in_layers.2.weight" not in shapes:
        return {}
    found = _encoder(shapes, written, _depth_by_decoder(shapes), images)
    if found:
        learned, loss = shapes["out.2.weight"][0] == 2 * found["data.channels"], written_at(written, "diffusion.loss")[1]
        if loss is None and not learned:
            found["diffusion.loss"] = next(name for name, entry in LOSSES.items() if not entry.trains_variance)
        if loss is None or loss in LOSSES and learned == LOSSES[loss].trains_variance:
            found["model.learn_sigma"] = learned
    return found


def told_of_half_unet(shapes: Shapes, written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the shapes of a classifier tell, by dotted key; empty where they are not of one.

    The pool is `model.pool`.
    """
    if any(name.startswith("output_blocks.") for name in shapes):
        return {}
    pool = next((pool for pool, mark in (("attention", "out.2.positional_embedding"), ("adaptive", "out.3.weight"),
                                         ("spatial", "out.2.weight")) if mark in shapes), None)
    if pool is None:
        return {}
    last = {"attention": "out.2.c_proj.weight", "adaptive": "out.3.weight", "spatial": "out.2.weight"}[pool]
    if pool == "adaptive" and len(shapes["out.3.weight"]) == 2:
        pool = "spatial_v2"
    found = _encoder(shapes, written, _depth_by_encoder(shapes, _image_size(written)))
    if found:
        found |= {"model.pool": pool, "data.num_classes": shapes[last][0], "data.class_cond": True}
    return found


def _encoder(shapes: Shapes, written: Mapping[str, Any], depth: int | None, images: int = 1) -> dict[str, Any]:
    """Return what the half that leads down tells. `depth`: residual blocks of a level; None: the shapes do not say."""
    try:
        channels = shapes["time_embed.0.weight"][1]
        found: dict[str, Any] = {
            "data.channels": shapes["input_blocks.0.0.weight"][1] // images, "model.num_channels": channels,
            "model.use_scale_shift_norm": shapes["input_blocks.1.0.emb_layers.1.weight"][0]
            == 2 * shapes["input_blocks.1.0.in_layers.2.weight"][0]}
        if "label_emb.weight" in shapes:
            found |= {"data.class_cond": True, "data.num_classes": shapes["label_emb.weight"][0]}
        else:
            found["data.class_cond"] = False
        if depth:
            levels = list(range(1, _input_blocks(shapes), depth + 1))  # the first residual block of each level
            widths = [shapes[f"input_blocks.{block}.0.in_layers.2.weight"][0] for block in levels]
            found |= {
                DEPTH: depth, "model.channel_mult": [_multiple(width, channels) for width in widths],
                "model.attention_resolutions": [_image_size(written) >> level for level, block in enumerate(levels)
                                                if f"input_blocks.{block}.1.qkv.weight" in shapes]}
            if len(levels) > 1:
                found["model.resblock_updown"] = f"input_blocks.{depth + 1}.0.op.weight" not in shapes
        return found
    except (KeyError, IndexError):  # weights of another family; comparing them with the network says how they differ
        return {}


def _image_size(written: Mapping[str, Any]) -> int:
    """Return data.image_size, which no weights tell; 1 where it is not written, which reading the spec reports."""
    size = written_at(written, "data.image_size")[1]
    return size if isinstance(size, int) and size > 0 else 1


def _input_blocks(shapes: Shapes) -> int:
    numbers = [int(match[1]) for name in shapes if (match := re.match(r"input_blocks\.(\d{1,4})\.", name))]
    return max(numbers, default=-1) + 1


def _depth_by_decoder(shapes: Shapes) -> int | None:
    """Return the residual blocks of a level: the first block of the decoder that also resizes is the last of its level."""
    numbers = [int(match[1]) for name in shapes
               if (match := re.match(r"output_blocks\.(\d{1,4})\.[12]\.(?:conv\.weight|in_layers\.2\.weight)$", name))]
    return min(numbers) if numbers else _input_blocks(shapes) - 1


def _depth_by_encoder(shapes: Shapes, image_size: int) -> int | None:
    """Return the number of residual blocks of a level of a half U-Net; None where several numbers would have these shapes."""
    blocks = _input_blocks(shapes)
    convolutions = [block for block in range(1, blocks) if f"input_blocks.{block}.0.op.weight" in shapes]
    if convolutions:
        return convolutions[0] - 1
    if "out.2.positional_embedding" in shapes:  # one column for each pixel of the deepest level, and one for the mean
        deepest = math.isqrt(max(shapes["out.2.positional_embedding"][-1] - 1, 1))
        levels = max(round(math.log2(image_size / deepest)) + 1, 1)
        return blocks // levels - 1 if blocks % levels == 0 else None
    possible = [depth for depth in range(1, blocks) if blocks % (depth + 1) == 0 and _fits(shapes, blocks, depth)]
    return possible[0] if len(possible) == 1 else None


def _fits(shapes: Shapes, blocks: int, depth: int) -> bool:
    """Return whether levels of `depth` residual blocks could have these shapes: a level has one width, all its blocks attend or
    none does, and the block behind them that resizes does not attend."""
    for first in range(1, blocks, depth + 1):
        level = range(first, min(first + depth + 1, blocks))
        attend = [f"input_blocks.{block}.1.qkv.weight" in shapes for block in level]
        widths = {shapes[f"input_blocks.{block}.0.in_layers.2.weight"][0] for block in level}
        if len(widths) > 1 or len(set(attend[:depth])) > 1 or any(attend[depth:]):
            return False
    return True


def _multiple(width: int, channels: int) -> float:
    """Return the multiplier of which int(multiplier * channels) is `width`: a whole number where there is one."""
    multiple = width / channels
    if multiple.is_integer():
        return int(multiple)
    return multiple if int(multiple * channels) == width else (width + 0.5) / channels
