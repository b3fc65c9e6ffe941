"""A convolutional variational autoencoder (Kingma & Welling 2014): residual stages with group normalisation.

There is no batch normalisation: an example's numbers depend on no other example, nor on how many ranks share a batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffusion.baselines.elbo import bounded_log_scale, reparameterised
from diffusion.networks.layers import Downsample, Norm, Recomputable, Upsample, zeroed

LOG_VARIANCES = (-20.0, 10.0)
"""Of a posterior: beyond, its exponential would be lost in float32, or drown every latent."""


class Block(Recomputable):
    """x [N, A, H, W], y int64 [N] or None -> [N, B, H, W]: two 3x3 convolutions beside a residual connection.

    With classes, a scale and a shift of the second norm's output are learned for each (Dumoulin et al. 2017).
    """

    def __init__(self, in_channels: int, out_channels: int, num_classes: int | None):
        super().__init__()
        self.in_layers = nn.Sequential(Norm(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1))
        if num_classes is not None:
            self.label_emb = zeroed(nn.Embedding(num_classes, 2 * out_channels))
        self.out_norm = Norm(out_channels)
        self.out_layers = nn.Sequential(nn.SiLU(), zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)))
        self.skip_connection = (nn.Identity() if in_channels == out_channels
                                else nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        return self.run(self._both_convolutions, x, y)

    def _both_convolutions(self, x: Tensor, y: Tensor | None) -> Tensor:
        h = self.out_norm(self.in_layers(x))
        if y is not None:
            scale, shift = self.label_emb(y).to(h.dtype)[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers(h)


class Stage(nn.ModuleList):
    """Layers of one level, one after another; blocks also take the classes."""

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        for layer in self:
            x = layer(x, y) if isinstance(layer, Block) else layer(x)
        return x


class Encoder(nn.Module):
    """Images x [N, C, S, S] in [-1, 1], y int64 [N] or None -> mean and log variance of q(z given x), float32 [N, *latent]."""

    def __init__(self, image_size: int, channels: int, widths: Sequence[int], num_res_blocks: int, latent: tuple[int, ...],
                 num_classes: int | None):
        super().__init__()
        self.latent = latent
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.stages = nn.ModuleList()
        before = widths[0]
        for level, width in enumerate(widths):
            blocks = [Block(before if index == 0 else width, width, num_classes) for index in range(num_res_blocks)]
            down = [Downsample(width)] if level < len(widths) - 1 else []
            self.stages.append(Stage([*blocks, *down]))
            before = width
        side = image_size >> len(widths) - 1
        to_latent: list[nn.Module] = ([nn.Conv2d(before, 2 * latent[0], 3, padding=1)] if len(latent) == 3
                                      else [nn.Flatten(), nn.Linear(before * side ** 2, 2 * latent[0])])
        self.out = nn.Sequential(Norm(before), nn.SiLU(), *to_latent)

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.first(x)
        for stage in self.stages:
            h = stage(h, y)
        mean, log_variance = self.out(h).float().chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCES)


class Decoder(nn.Module):
    """Latents z [N, *latent], y int64 [N] or None -> mean and log sigma of p(x given z), float32 [N, C, S, S] each.

    With classes, each adds an embedding to what the first layer makes of z: so the class is told from the first step on, and the
    latents need not tell it again. `scale_per_value`: see diffusion.baselines.decoders.Decoder. The mean of a good decoder is in
    [-1, 1]; nothing bounds it.
    """

    def __init__(self, image_size: int, channels: int, widths: Sequence[int], num_res_blocks: int, latent: tuple[int, ...],
                 num_classes: int | None, scale_per_value: bool):
        super().__init__()
        before, side = widths[-1], image_size >> len(widths) - 1
        self.first = (nn.Conv2d(latent[0], before, 3, padding=1) if len(latent) == 3 else
                      nn.Sequential(nn.Linear(latent[0], before * side ** 2), nn.Unflatten(1, (before, side, side))))
        self.label_emb = None if num_classes is None else nn.Embedding(num_classes, before * side ** 2)
        self.stages = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            blocks = [Block(before if index == 0 else width, width, num_classes) for index in range(num_res_blocks)]
            self.stages.append(Stage([*blocks, *([Upsample(width)] if level > 0 else [])]))
            before = width
        self.out = nn.Sequential(Norm(before), nn.SiLU(),
                                 nn.Conv2d(before, channels * (1 + scale_per_value), 3, padding=1))
        self.log_sigma = None if scale_per_value else nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.first(z)
        if self.label_emb is not None:
            h = h + self.label_emb(y).to(h.dtype).view_as(h)
        for stage in self.stages:
            h = stage(h, y)
        out = self.out(h).float()
        if self.log_sigma is None:
            mean, raw = out.chunk(2, dim=1)
        else:
            mean, raw = out, self.log_sigma.expand_as(out)
        return mean, bounded_log_scale(raw)


class VAE(nn.Module):
    """Encoder and decoder. Training calls the whole, sampling the decoder alone.

    image_size      S, divisible by 2 ** (number of levels - 1)
    widths          channels of each level of the encoder; the decoder has them the other way round
    latent          "spatial" or "vector", of diffusion.baselines.decoders.LATENTS
    latent_channels channels of the map, or length of the vector
    Raises ValueError where the levels do not divide image_size.
    """

    def __init__(self, *, image_size: int, channels: int, widths: Sequence[int], num_res_blocks: int, latent: str,
                 latent_channels: int, scale_per_value: bool, num_classes: int | None = None):
        super().__init__()
        if image_size % 2 ** (len(widths) - 1):
            raise ValueError(f"image_size {image_size} cannot be halved {len(widths) - 1} times")
        self.sides = [image_size >> level for level in range(len(widths))]
        self.latent_shape = (latent_channels,) if latent == "vector" else (latent_channels, self.sides[-1], self.sides[-1])
        self.encoder = Encoder(image_size, channels, widths, num_res_blocks, self.latent_shape, num_classes)
        self.decoder = Decoder(image_size, channels, widths, num_res_blocks, self.latent_shape, num_classes, scale_per_value)

    def forward(self, x: Tensor, noise: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images x [N, C, S, S], standard normal `noise` [N, *latent_shape], y int64 [N] or None -> mean and log variance of
        q(z given x), mean and log sigma of p(x given z) at the z of that noise."""
        mean, log_variance = self.encoder(x, y)
        return mean, log_variance, *self.decoder(reparameterised(mean, log_variance, noise), y)

    def checkpoint_gradients(self, where: bool | Sequence[int]) -> None:
        """Recompute blocks in the backward pass: all of them, or those whose images have one of the sizes `where`, in pixels."""
        for coder, sides in ((self.encoder, self.sides), (self.decoder, self.sides[::-1])):
            for stage, side in zip(coder.stages, sides, strict=True):
                for layer in stage.modules():
                    if isinstance(layer, Block):
                        layer.recompute = where if isinstance(where, bool) else side in where
