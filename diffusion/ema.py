"""Exponential moving averages of weights."""

import torch
from torch import Tensor


@torch.no_grad()
def update_ema(averages: list[Tensor], parameters: list[Tensor], rate: float) -> None:
    """averages := rate * averages + (1 - rate) * parameters, in place, tensor by tensor in one fused call."""
    torch._foreach_lerp_(averages, parameters, 1 - rate)
