"""The keys of a spec that shape the U-Net and its half, and what they rule out."""

from typing import Annotated

from pydantic import AfterValidator, Field

from jobs.spec.fields import Count, Fraction, Section
from jobs.spec.sections import Contradiction, Data, not_a_resolution

# Channel multipliers of the reference for the image sizes it knows (improved-diffusion README).
CHANNEL_MULT: dict[int, list[float]] = {32: [1, 2, 2, 2], 64: [1, 2, 3, 4], 256: [1, 1, 2, 2, 4, 4]}


def _whole(value: float) -> float:
    """Return 2.0 as 2, so that equal networks have equal specs."""
    return int(value) if float(value).is_integer() else value


Multiplier = Annotated[float, Field(gt=0, le=1000), AfterValidator(_whole)]


class WidthsAsWritten(Section):
    """The levels of a network: how many, how wide, how deep."""

    num_channels: Annotated[Count, Field(le=65_536)] = 128
    num_res_blocks: Annotated[Count, Field(le=100)] = 3
    channel_mult: Annotated[list[Multiplier], Field(min_length=1, max_length=16)] | None = None
    """Channels of each level as multiples of num_channels, fractions rounded down; null: the reference's for image sizes 32, 64
    and 256."""


class NetworkAsWritten(WidthsAsWritten):
    """What the U-Net and its half have in common."""

    younger = frozenset({"num_head_channels", "use_new_attention_order", "resblock_updown"})
    attention_resolutions: Annotated[list[Count], Field(max_length=100)] = [16, 8]
    num_heads: Annotated[Count, Field(le=65_536)] = 4
    num_head_channels: Annotated[Count, Field(le=65_536)] | None = None
    """Channels of one head, instead of num_heads and num_heads_upsample."""
    use_new_attention_order: bool = False
    """Order of queries, keys and values in the weights of attention. No checkpoint records this setting: a wrong one loads."""
    resblock_updown: bool = False
    """Resize between levels by residual blocks, as guided-diffusion does, not by single convolutions."""
    dropout: Fraction = 0.0
    use_scale_shift_norm: bool = True


def default_channel_mult(written: WidthsAsWritten, data: Data) -> list[float]:
    """Return the multipliers of a spec; empty where there is no default, which `network_resolutions` reports."""
    return written.channel_mult or list(CHANNEL_MULT.get(data.image_size, []))


def widths(model: WidthsAsWritten) -> list[int]:
    """Return the channels of each level."""
    return [int(mult * model.num_channels) for mult in model.channel_mult or []]


def network_resolutions(model: NetworkAsWritten, data: Data,
                        num_heads_upsample: int | None = None) -> tuple[list[int], list[Contradiction]]:
    """Return the image sizes at which the network works, in pixels (none where the spec allows no network), and the
    contradictions of the network's settings."""
    resolutions, found = level_resolutions(model, data)
    if found:
        return [], found
    found = [("model.attention_resolutions", not_a_resolution(named, resolutions))
             for named in model.attention_resolutions if named not in resolutions]
    attended = [width for width, at in zip(widths(model), resolutions, strict=True) if at in model.attention_resolutions]
    middle = widths(model)[-1]  # the middle block always attends, at the deepest level
    return resolutions, found + _heads(model, {*attended, middle}, set(attended), num_heads_upsample)


def level_resolutions(model: WidthsAsWritten, data: Data) -> tuple[list[int], list[Contradiction]]:
    """Return the image size of each level, in pixels (none where the spec allows no network), and the contradictions."""
    size, levels = data.image_size, len(model.channel_mult or [])
    if not levels:
        sizes = ", ".join(map(str, CHANNEL_MULT))
        return [], [("model.channel_mult", f"there is a default only for image_size {sizes}; give one multiplier per level")]
    resolutions = [size >> level for level in range(levels)]
    if size % 2 ** (levels - 1):
        return [], [("data.image_size", f"{size} cannot be halved {levels - 1} times (channel_mult has {levels} levels); "
                     f"use a multiple of {2 ** (levels - 1)}")]
    if not all(widths(model)):
        return [], [("model.channel_mult", f"a level has less than one channel; {min(model.channel_mult or [])} x num_channels "
                     f"{model.num_channels} must be at least 1")]
    return resolutions, []


def _heads(model: NetworkAsWritten, attended: set[int], on_the_way_up: set[int],
           num_heads_upsample: int | None) -> list[Contradiction]:
    """Return the settings of heads that do not divide the channels `attended` of attention layers."""
    if each := model.num_head_channels:
        counts = [("model.num_head_channels", f"heads of {each} channels", each, attended)]
    else:
        counts = [("model.num_heads", f"{model.num_heads} heads", model.num_heads, attended)]
        if num_heads_upsample:
            counts.append(("model.num_heads_upsample", f"{num_heads_upsample} heads", num_heads_upsample, on_the_way_up))
    return [(key, f"{heads} do not divide the {channels} channels of an attention layer")
            for key, heads, number, layers in counts for channels in sorted(layers) if channels % number]
