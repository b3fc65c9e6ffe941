"""The U-Net that enlarges images, as Nichol & Dhariwal 2021 and Dhariwal & Nichol 2021 upsample: it also sees a small image.

Its state dict has the keys of the U-Net; only the first convolution has more inputs.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.networks.layers import timestep_embedding
from diffusion.networks.unet import UNet

LEVELS = 1000.0
"""A level of noise in 0 .. 1 is embedded as a time in 0 .. 1000."""


class SuperResolutionUNet(UNet):
    """network(x [N, C, S, S], t float [N], y, low_res [N, C, s, s], level float [N]) -> [N, out_channels, S, S].

    in_channels     C, of x and of low_res each
    knows_level     the network also takes the level of the noise on low_res, through two linear layers `level_embed` as time has
    Other settings are those of `UNet`. `low_res` is in [-1, 1], or noised by `noised_low_res`.
    """

    def __init__(self, *, in_channels: int, knows_level: bool = False, **settings):
        super().__init__(in_channels=2 * in_channels, **settings)
        self.knows_level = knows_level
        if knows_level:
            width, embedding = self.num_channels, 4 * self.num_channels
            self.level_embed = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

    def forward(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None, *, low_res: Tensor | None = None,
                level: Tensor | None = None, embedding: Tensor | None = None, drawn: Tensor | None = None) -> Tensor:
        """The output at times t with labels y and level; or with the `embedding` [N or 1, E] of all three, see `along`."""
        if embedding is None:
            embedding = self.embedded(t, y) + self._level_embedding(level)
        if low_res is None:
            raise ValueError("the network needs small images low_res, which it enlarges")
        return super().forward(torch.cat([x, enlarged(low_res, x.shape[-1])], dim=1), embedding=embedding, drawn=drawn)

    def along(self, times: Tensor, y: Tensor | None = None, *, low_res: Tensor | None = None,
              level: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]:
        """at_step(x, number int64 [1]) = forward(x, times[number], y, low_res=low_res, level=level), for `times` [K]."""
        time, label, of_level = self._time_embedding(times), self._label_embedding(y), self._level_embedding(level)

        def at_step(x: Tensor, number: Tensor) -> Tensor:
            embedding = time.index_select(0, number) + of_level
            return self(x, low_res=low_res, embedding=embedding if label is None else embedding + label)
        return at_step

    def _level_embedding(self, level: Tensor | None) -> Tensor | float:
        if (level is not None) != self.knows_level:
            raise ValueError("levels of noise on low_res are needed exactly where the network knows them")
        return 0.0 if level is None else self.level_embed(timestep_embedding(LEVELS * level, self.num_channels))


def enlarged(low_res: Tensor, size: int) -> Tensor:
    """`low_res` [N, C, s, s], enlarged to [N, C, size, size] bilinearly; the corners of the two grids are not aligned."""
    return F.interpolate(low_res, (size, size), mode="bilinear", align_corners=False)


def reduced(x: Tensor, size: int) -> Tensor:
    """The images x [N, C, S, S], reduced to [N, C, size, size]: means over squares, where `size` divides S."""
    return F.interpolate(x, (size, size), mode="area")


def noised_low_res(low_res: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """`low_res` [N, C, s, s] with standard normal `noise`, whose deviation is `level` [N] in 0 .. 1; the variance stays.

    Conditioning augmentation, not truncated (Ho et al. 2022, Cascaded Diffusion Models): the forward process on low_res.
    """
    s = level[:, None, None, None]
    return (1 - s ** 2).sqrt() * low_res + s * noise
