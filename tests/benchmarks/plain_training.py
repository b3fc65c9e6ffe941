"""Train in the plain way that tests/benchmarks/train.py compares with: the operations of the reference, one by one."""

import numpy as np
import torch
from torch import Tensor, nn

from diffusion.losses import training_losses
from diffusion.networks.layers import Attention
from jobs.kinds.protocol import Examples
from jobs.spec.kinds import MODEL
from jobs.training.step import TrainingState


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class PlainAttention(Attention):
    """Attention over [N, C, T] that computes the T x T matrix in full."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, *size = x.shape
        x = x.reshape(n, c, -1)
        q, k, v = self.qkv(self.norm(x)).reshape(n * self.num_heads, -1, x.shape[-1]).chunk(3, dim=1)
        scale = q.shape[1] ** -0.25
        weight = torch.einsum("bct,bcs->bts", q * scale, k * scale).float().softmax(dim=-1)
        attended = torch.einsum("bts,bcs->bct", weight, v).reshape(n, c, -1)
        return (x + self.proj_out(attended)).reshape(n, c, *size)


def made_plain(state: TrainingState) -> TrainingState:
    """Replace activations, attention, DDP and optimiser of the state by plain ones."""
    part = state.parts[MODEL]
    for module in list(part.network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.SiLU):
                setattr(module, name, Swish())
        if isinstance(module, Attention):
            module.__class__ = PlainAttention
    part.ddp = nn.parallel.DistributedDataParallel(part.network)
    part.optimizer = torch.optim.AdamW(part.network.parameters(), lr=1e-4, weight_decay=0.0, foreach=False)
    return state


def plain_step(state: TrainingState, examples: Examples, step: int) -> None:
    """Do one update, tensor by tensor, and read every loss and every gradient's norm back from the device."""
    part, inputs = state.parts[MODEL], state.kind.inputs(examples, state.draw(step))
    for parameter in part.parameters:
        if parameter.grad is not None:
            parameter.grad.zero_()
    losses = training_losses(state.kind.diffusion, part.ddp, inputs.x_start, inputs.t, inputs.noise, "hybrid")
    (losses["loss"] * inputs.weights).mean().backward()
    for values in losses.values():
        for t, value in zip(inputs.t.numpy(), values.detach().numpy(), strict=True):
            assert t >= 0 and value.item() == value.item()
    squared = 0.0
    for parameter in part.parameters:
        squared += (parameter.grad ** 2).sum().item()
    assert np.sqrt(squared) > 0
    part.optimizer.step()
    for rate, averages in part.averages.items():
        for average, parameter in zip(averages.values(), part.parameters, strict=True):
            average.detach().mul_(float(rate)).add_(parameter.detach(), alpha=1 - float(rate))
