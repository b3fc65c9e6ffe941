"""The two networks of a GAN: a residual generator and a residual discriminator, both without normalisation.

Without batch statistics an example's output does not depend on the other examples, so that gradient penalties are those of
each example, and nothing depends on how a batch is split. The layout follows Huang et al. 2024 (R3GAN, section 3) and Mescheder
et al. 2018 (appendix on architectures); Zhang et al. 2019 (Fixup, section 3) say how such networks have to start.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2  # of the leaky ReLU; piecewise linear, so its second derivative is 0 in a gradient penalty
CONVOLUTIONS = 2  # of one residual branch


def activation(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def conv(in_channels: int, out_channels: int, size: int, gain: float, bias: bool = True) -> nn.Conv2d:
    """Return a convolution whose weights have deviation `gain` / sqrt(products per output), and whose bias starts at 0."""
    layer = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=bias)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(in_channels * size ** 2))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def dense(in_features: int, out_features: int) -> nn.Linear:
    """As `conv` with gain 1, for vectors."""
    layer = nn.Linear(in_features, out_features)
    nn.init.normal_(layer.weight, std=1 / math.sqrt(in_features))
    nn.init.zeros_(layer.bias)
    return layer


class ResBlock(nn.Module):
    """x + conv(act(conv(act(x)))): [N, C, H, W] -> [N, C, H, W]. Starts as the identity; `depth` blocks follow each other."""

    def __init__(self, channels: int, depth: int):
        super().__init__()
        # Fixup: L^(-1 / (2m - 2)) for m convolutions in each of L branches, and 0 for the last one.
        he = math.sqrt(2 / (1 + SLOPE ** 2))
        self.conv1 = conv(channels, channels, 3, he * depth ** (-1 / (2 * CONVOLUTIONS - 2)))
        self.conv2 = conv(channels, channels, 3, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(activation(self.conv1(activation(x))))


class Generator(nn.Module):
    """Makes images [N, C, H, W] in (-1, 1) of latents z [N, latent_size] and, with `num_classes`, classes y int64 [N].

    `widths`: channels of each level, the finest first, as in the U-Net. A class is embedded, and joined to z (Mescheder et al.
    2018); a dense layer makes the coarsest level of both.
    """

    def __init__(self, image_size: int, channels: int, latent_size: int, widths: Sequence[int], num_res_blocks: int,
                 num_classes: int | None = None):
        super().__init__()
        self.resolution, depth = image_size >> (len(widths) - 1), len(widths) * num_res_blocks
        self.coarsest = widths[-1]
        self.label_emb = None if num_classes is None else nn.Embedding(num_classes, latent_size)
        self.start = dense(latent_size * (1 if num_classes is None else 2), self.coarsest * self.resolution ** 2)
        self.levels = nn.ModuleList(nn.Sequential(*(ResBlock(width, depth) for _ in range(num_res_blocks)))
                                    for width in reversed(widths))
        self.changes = nn.ModuleList(conv(before, after, 1, 1.0, bias=False) for before, after in pairwise(reversed(widths)))
        self.out = conv(widths[0], channels, 3, 1.0)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        if self.label_emb is not None:
            z = torch.cat([z, self.label_emb(y)], dim=1)
        x = self.levels[0](self.start(z).view(len(z), self.coarsest, self.resolution, self.resolution))
        for change, level in zip(self.changes, self.levels[1:], strict=True):
            x = level(F.interpolate(change(x), scale_factor=2.0, mode="nearest"))
        return torch.tanh(self.out(activation(x)).to(self.out.weight.dtype))


class Discriminator(nn.Module):
    """Scores images x [N, C, H, W], float32 [N]: the higher, the more real. With `num_classes` given their classes y int64 [N].

    The score is linear in the features: w . f(x), and with classes + v_y . f(x) (Miyato & Koyama 2018, projection). There is no
    bias: one in all scores would change no difference of two.
    """

    def __init__(self, image_size: int, channels: int, widths: Sequence[int], num_res_blocks: int,
                 num_classes: int | None = None):
        super().__init__()
        resolution, depth = image_size >> (len(widths) - 1), len(widths) * num_res_blocks
        features = widths[-1] * resolution ** 2
        self.enter = conv(channels, widths[0], 3, 1.0)
        self.levels = nn.ModuleList(nn.Sequential(*(ResBlock(width, depth) for _ in range(num_res_blocks))) for width in widths)
        self.changes = nn.ModuleList(conv(before, after, 1, 1.0, bias=False) for before, after in pairwise(widths))
        self.score = nn.Parameter(torch.randn(features) / math.sqrt(features))
        self.label_emb = None if num_classes is None else nn.Embedding(num_classes, features)
        if self.label_emb is not None:
            nn.init.normal_(self.label_emb.weight, std=1 / math.sqrt(features))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.levels[0](self.enter(x))
        for change, level in zip(self.changes, self.levels[1:], strict=True):
            x = level(change(F.avg_pool2d(x, 2)))
        features = activation(x).flatten(1).to(self.score.dtype)  # [N, features]; scores are float32 under any autocast
        weights = self.score if self.label_emb is None else self.score + self.label_emb(y)
        return (features * weights).sum(dim=1)
