"""Dropout (Srivastava et al. 2014) whose masks are a function of a key for each example.

torch's own dropout draws from one stream for a whole batch, so a mask depends on the examples beside it and on the rank. Here the
key of an example starts a stream of 32-bit numbers by SplitMix64 (Steele et al. 2014), of which each layer takes its own part:
for a layer of C channels and P pixels a and b [C], x [P]. The numbers a * x + b modulo 2 ** 32 decide about the pixels of each
channel: within a channel they are nearly pairwise independent (multiplicative hashing, Dietzfelbinger et al. 1997), between
channels, layers and examples independent. On a CPU a training step with these masks takes 0.97 to 0.98 of the time of a step
with torch's (tests/benchmarks/train.py dropout).
"""

import torch
from torch import Tensor, nn

GOLDEN, FIRST, SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # SplitMix64's numbers, as int64
LEVELS = 2 ** 32  # of the numbers that decide about one activation


def random_numbers(keys: Tensor, count: int) -> Tensor:
    """Return the first `count` numbers of the stream of each of `keys` int64 [n]: int32 [n, count].

    Not to be compiled: for these operations the compiler of torch 2.13 writes code that damages memory on a CPU.
    """
    places = torch.arange(1, (count + 1) // 2 + 1, dtype=torch.int64, device=keys.device)
    z = keys[:, None] + places * GOLDEN
    z = (z ^ _shifted(z, 30)) * FIRST
    z = (z ^ _shifted(z, 27)) * SECOND
    z = z ^ _shifted(z, 31)
    return torch.cat([z << 32 >> 32, z >> 32], dim=1)[:, :count].int()


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Return z >> bits with zeros from the left, as for unsigned numbers."""
    return (z >> bits) & (2 ** (64 - bits) - 1)


def numbers_per_example(channels: int, pixels: int) -> int:
    """How many numbers `KeyedDropout` needs for one example of [channels, pixels]."""
    return 2 * channels + pixels


class KeyedDropout(nn.Dropout):
    """x [N, C, H, W] with the activations zeroed that `numbers` int32 [N, numbers_per_example(C, H W)] choose; the others grow.

    Without `numbers`, as nn.Dropout: by torch's global random state.
    """

    def forward(self, x: Tensor, numbers: Tensor | None = None) -> Tensor:
        dropped = min(round(self.p * LEVELS), LEVELS - 1)
        if numbers is None or not self.training or not dropped:
            return super().forward(x)
        keep = kept(numbers, x.shape[1], x.shape[2] * x.shape[3], dropped)
        # One kernel on a GPU, and its gradient keeps the mask as one byte each. The operation is x * mask * factor.
        return torch.ops.aten.native_dropout_backward(x, keep.view(x.shape), LEVELS / (LEVELS - dropped))


def kept(numbers: Tensor, channels: int, pixels: int, dropped: int) -> Tensor:
    """Return which activations stay: bool [N, channels, pixels], each false with probability dropped / 2 ** 32."""
    a, b, x = numbers.split([channels, channels, pixels], dim=1)
    return torch.addcmul(b[:, :, None], a[:, :, None], x[:, None]) >= dropped - LEVELS // 2
