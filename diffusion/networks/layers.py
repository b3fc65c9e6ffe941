"""The U-Net's building blocks. Attribute names are the keys of published checkpoints: renaming one breaks loading."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def timestep_embedding(t: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding [N, width] of times `t` [N]: cosines, then sines, a zero column where width is odd.

    Vaswani et al. 2017, section 3.5, in the layout of the published IDDPM networks.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies[None]
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width % 2))


def zeroed(module: nn.Module) -> nn.Module:
    """The module with all parameters at 0: a residual branch that starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Norm(nn.GroupNorm):
    """Group normalisation in float32 under any autocast: 32 groups, or as many as divide the channels evenly."""

    def __init__(self, channels: int):
        super().__init__(math.gcd(32, channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        # On a CPU the kernel for bfloat16 computes in float32 by itself, up to four times faster than with copies around it.
        by_itself = x.dtype == torch.bfloat16 and x.device.type == "cpu"
        given = x if by_itself else x.float()
        return F.group_norm(given, self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)


class Join(torch.autograd.Function):
    """x [N, A, H, W] and skip [N, B, H, W] -> [N, A + B, H, W].

    cat's own backward gives views, and that of `skip`, which waits for its input block, would keep the whole alive meanwhile.
    """

    @staticmethod
    def forward(ctx, x: Tensor, skip: Tensor) -> Tensor:
        ctx.channels = x.shape[1]
        return torch.cat([x, skip], dim=1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient[:, :ctx.channels], gradient[:, ctx.channels:].clone()


def at_once(function: Callable, *arguments: Tensor | None) -> Tensor | tuple[Tensor, ...]:
    return function(*arguments)


def recomputed(function: Callable, *arguments: Tensor | None) -> Tensor | tuple[Tensor, ...]:
    """function(*arguments), of which the backward pass finds only the arguments and computes the rest again.

    It stops where nothing more is needed: a convolution at the end, of which its input is kept, is not run twice.
    """
    return checkpoint(function, *arguments, use_reentrant=False)  # non-reentrant: also under autocast, DDP and a compiler


class ResBlock(nn.Module):
    """x [N, in, H, W], embedding [N or 1, E] -> [N, out, H, W]. With `skip` the two joined are the `in` channels.

    `call` is `at_once`, or `recomputed` for less memory: then x and skip stay. With skip, on the way up, so does what lies
    between the 3x3 convolutions, and none of them is run twice; without, on the way down, it would wait too long to be worth it.
    """

    def __init__(self, in_channels: int, out_channels: int, embedding: int, dropout: float, use_scale_shift_norm: bool):
        super().__init__()
        self.use_scale_shift_norm = use_scale_shift_norm
        self.in_layers = nn.Sequential(Norm(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out_channels * (1 + use_scale_shift_norm)))
        self.out_layers = nn.Sequential(Norm(out_channels), nn.SiLU(), nn.Dropout(dropout),
                                        zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)))
        self.skip_connection = (nn.Identity() if in_channels == out_channels
                                else nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, x: Tensor, embedding: Tensor, skip: Tensor | None = None, call: Callable = at_once) -> Tensor:
        if skip is None:
            return call(self._whole, x, embedding)
        residual, h = call(self._first, x, skip)
        return residual + call(self._second, h, embedding)

    def _whole(self, x: Tensor, embedding: Tensor) -> Tensor:
        residual, h = self._first(x)
        return residual + self._second(h, embedding)

    def _first(self, x: Tensor, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if skip is not None:
            x = Join.apply(x, skip)
        return self.skip_connection(x), self.in_layers(x)

    def _second(self, h: Tensor, embedding: Tensor) -> Tensor:
        modulation = self.emb_layers(embedding)[:, :, None, None]  # [N or 1, out or 2 out, 1, 1]
        if self.use_scale_shift_norm:
            scale, shift = modulation.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
            return self.out_layers[1:](h)
        return self.out_layers(h + modulation)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Of q to k, v: [N, heads, T, D] each, and the result (Vaswani et al. 2017, eq. 1)."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # torch's fused kernel, forward and backward, takes two to six times as long as its parts do here.
        weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return weights.softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Self-attention over all positions, with a residual connection: [N, C, H, W] -> [N, C, H, W].

    The rows of `qkv` are head-major: head, then q, k, v, then channel of the head.
    """

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"{num_heads} heads do not divide {channels} channels")
        self.num_heads = num_heads
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2).contiguous()  # [N, T, C]
        # The 1x1 convolutions as products over the last dimension: the layout that the fast attention kernels take.
        qkv = F.linear(tokens, self.qkv.weight.flatten(1), self.qkv.bias)
        q, k, v = qkv.view(n, -1, self.num_heads, 3, c // self.num_heads).permute(3, 0, 2, 1, 4)  # [N, heads, T, C/heads]
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
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
