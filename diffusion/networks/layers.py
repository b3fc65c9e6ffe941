"""Layers of the networks. Attribute names are keys of published checkpoints: a renamed attribute would not load.

Two functions have a way of their own for bfloat16 on a CPU (`Norm.forward`, `attention`). Together with `Join` these ways are
measured by tests/benchmarks/train.py step; on a GPU they change nothing.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from diffusion.networks.dropout import KeyedDropout, numbers_per_example

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def timestep_embedding(t: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding [N, width] of times `t` [N]: cosines, then sines, and a column of zeros where width is odd.

    Vaswani et al. 2017, section 3.5, in the layout of the published IDDPM networks.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies[None]
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width % 2))


def zeroed(module: AnyModule) -> AnyModule:
    """The module with all its parameters set to 0: a residual block that ends in one starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Norm(nn.GroupNorm):
    """Group normalisation, computed in float32 under any autocast: 32 groups, or as many as divide the channels evenly."""

    def __init__(self, channels: int):
        super().__init__(math.gcd(32, channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        # A CPU's kernel for bfloat16 computes in float32 by itself, up to four times as fast as with copies before and after.
        given = x if x.dtype == torch.bfloat16 and x.device.type == "cpu" else x.float()
        return super().forward(given).to(x.dtype)


class Join(torch.autograd.Function):
    """x [N, A, H, W] and skip [N, B, H, W] -> [N, A + B, H, W]: torch.cat with less memory in the backward pass.

    The gradients of torch.cat are views into one tensor. That of `skip` waits until the backward pass reaches the encoder, and
    would keep the whole tensor alive so long, so it is copied.
    """

    @staticmethod
    def forward(ctx, x: Tensor, skip: Tensor) -> Tensor:
        ctx.channels = x.shape[1]
        return torch.cat([x, skip], dim=1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient[:, :ctx.channels], gradient[:, ctx.channels:].clone()


class Recomputable(nn.Module):
    """A layer that can trade time for memory in training (gradient checkpointing). The gradients are the same."""

    recompute = False
    """Set by `Encoder.checkpoint_gradients`."""

    def run(self, part: Callable, *arguments: Tensor | None):
        """part(*arguments). With `recompute` only the arguments are kept, and the backward pass computes `part` again.

        The second computation stops as soon as the backward pass has all that it needs: a convolution at the end of `part` does
        not run twice, because its gradient takes its input alone.
        """
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(part, *arguments, use_reentrant=False)  # this kind also works with autocast, DDP and a compiler
        return part(*arguments)


def halved(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, H/2, W/2]: the average of each 2x2 pixels."""
    return F.avg_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, 2H, 2W]: nearest neighbour."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


class ResBlock(Recomputable):
    """x [N, A, H, W], embedding [N or 1, E] -> [N, out_channels, H, W]: two 3x3 convolutions beside a residual connection.

    `resample`: `halved` or `doubled`, for both the residual connection and the input of the first convolution, after its norm
    (Dhariwal & Nichol 2021, section 3: the up- and downsampling of BigGAN). H and W of the output then are halved or doubled.

    Encoder blocks have A = in_channels. Decoder blocks also take `skip` [N, B, H, W], with A + B = in_channels. `drawn` int32
    [N, ...] are this layer's random numbers for dropout, of all layers' numbers those of `own_draws` (`draws_at`).
    With `recompute`, an encoder block keeps only its inputs. A decoder block also keeps the activation between the convolutions,
    so that neither runs twice; in the encoder that activation would be held too long, until the backward pass is nearly over.
    """

    def __init__(self, in_channels: int, out_channels: int, embedding: int, dropout: float, use_scale_shift_norm: bool,
                 resample: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.use_scale_shift_norm, self.out_channels, self.resample = use_scale_shift_norm, out_channels, resample
        self.own_draws = slice(0)
        self.in_layers = nn.Sequential(Norm(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out_channels * (1 + use_scale_shift_norm)))
        self.out_layers = nn.Sequential(Norm(out_channels), nn.SiLU(), KeyedDropout(dropout),
                                        zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)))
        self.skip_connection = (nn.Identity() if in_channels == out_channels
                                else nn.Conv2d(in_channels, out_channels, 1))

    def draws_at(self, first: int, pixels: int) -> int:
        """Let dropout take the random numbers from `first` on, for activations of so many pixels. Return where they end."""
        self.own_draws = slice(first, first + numbers_per_example(self.out_channels, pixels))
        return self.own_draws.stop

    def forward(self, x: Tensor, embedding: Tensor, skip: Tensor | None = None, drawn: Tensor | None = None) -> Tensor:
        if skip is None:
            return self.run(self._both_convolutions, x, embedding, drawn)
        residual, h = self.run(self._first_convolution, x, skip)
        return residual + self.run(self._second_convolution, h, embedding, drawn)

    def _both_convolutions(self, x: Tensor, embedding: Tensor, drawn: Tensor | None) -> Tensor:
        residual, h = self._first_convolution(x)
        return residual + self._second_convolution(h, embedding, drawn)

    def _first_convolution(self, x: Tensor, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if skip is not None:
            x = Join.apply(x, skip)
        if self.resample is None:
            return self.skip_connection(x), self.in_layers(x)
        norm, silu, convolution = self.in_layers
        return self.skip_connection(self.resample(x)), convolution(self.resample(silu(norm(x))))

    def _second_convolution(self, h: Tensor, embedding: Tensor, drawn: Tensor | None) -> Tensor:
        modulation = self.emb_layers(embedding)[:, :, None, None]  # [N or 1, out or 2 out, 1, 1]
        norm, silu, dropout, convolution = self.out_layers
        if self.use_scale_shift_norm:
            scale, shift = modulation.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + modulation)
        return convolution(dropout(silu(h), drawn))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of q, k and v, [N, heads, T, D] each and the result (Vaswani et al. 2017, eq. 1)."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # On a CPU torch's fused kernel for bfloat16 takes two to six times as long, forward and backward, as its parts.
        weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return weights.softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(Recomputable):
    """Self-attention over all positions, with a residual connection: [N, C, H, W] -> [N, C, H, W].

    The rows of `qkv` are ordered by head, then q, k, v, then channel of the head; with `new_order` by q, k, v, then head, then
    channel of the head. Both orders have weights of the same shapes. Raises ValueError where num_heads does not divide the
    channels.
    """

    def __init__(self, channels: int, num_heads: int, new_order: bool = False):
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"{num_heads} heads do not divide {channels} channels")
        self.num_heads, self.new_order = num_heads, new_order
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self._attended, x)

    def _attended(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2).contiguous()  # [N, T, C]
        # 1x1 convolutions as products over the last dimension: fast attention kernels need this layout.
        qkv = F.linear(tokens, self.qkv.weight.flatten(1), self.qkv.bias)
        if self.new_order:
            q, k, v = qkv.view(n, -1, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)  # [N, heads, T, C/heads]
        else:
            q, k, v = qkv.view(n, -1, self.num_heads, 3, c // self.num_heads).permute(3, 0, 2, 1, 4)
        attended = attention(q, k, v).transpose(1, 2).reshape(n, -1, c)  # [N, T, C]
        projected = F.linear(attended, self.proj_out.weight.flatten(1), self.proj_out.bias)
        return x + projected.transpose(1, 2).reshape(n, c, height, width)


class Downsample(nn.Module):
    """[N, C, H, W] -> [N, C, H/2, W/2] by a strided convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """[N, C, H, W] -> [N, C, 2H, 2W]: nearest neighbour, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(doubled(x))
