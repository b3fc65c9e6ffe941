"""Dynamic thresholding of predicted images."""

import math

from torch import Tensor

from diffusion.gaussian import finite_where


def dynamically_clipped(pred_xstart: Tensor, v: Tensor | None, ratio: float) -> Tensor:
    """`pred_xstart` [N, C, H, W] clipped to [-s, s] and divided by s, for each image; NaN where pred_xstart or `v` is infinite.

    s is the quantile `ratio` of the image's absolute values, interpolated linearly, and at least 1. Saharia et al. 2022 (Imagen),
    section 2.3. A few values of an image lie above the quantile: only those are sorted.
    """
    sizes = pred_xstart.abs().flatten(1)
    place = ratio * (sizes.shape[1] - 1)
    below = math.floor(place)
    largest = sizes.topk(sizes.shape[1] - below, dim=1).values  # the last of them has rank `below`, the one before the next rank
    low, high = largest[:, -1], largest[:, max(len(largest[0]) - 2, 0)]
    s = low.lerp(high, place - below).clamp(min=1).view(-1, 1, 1, 1)
    return finite_where(pred_xstart.clamp(-s, s).div_(s), pred_xstart, v)
