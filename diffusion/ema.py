"""Exponential moving averages of weights."""

from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


def update_ema(averages: list[Tensor], parameters: list[Tensor], rate: float) -> None:
    """averages := rate * averages + (1 - rate) * parameters, in place, without gradients, in one fused call for all tensors."""
    get_ema_multi_avg_fn(rate)(averages, parameters, None)
