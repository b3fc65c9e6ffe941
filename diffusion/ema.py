"""Exponential moving averages of weights."""

import torch
from torch import Tensor


@torch.no_grad()
def update_ema(averages: list[Tensor], parameters: list[Tensor], rate: float, skip: Tensor | None = None) -> None:
    """averages := rate * averages + (1 - rate) * parameters, in place, without gradients, in one fused call for all tensors.

    `skip`, float32 [] on the device: where it is 1 the averages stay as they are. The host does not wait to know.
    """
    # A step of gradient descent: averages - lr * (weight_decay * averages - parameters). Only this kernel knows how to skip.
    torch._fused_sgd_(averages, parameters, [], weight_decay=1.0, momentum=0.0, lr=1 - rate, dampening=0.0, nesterov=False,
                      maximize=True, is_first_step=False, grad_scale=None, found_inf=skip)
