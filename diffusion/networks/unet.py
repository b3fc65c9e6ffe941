"""The U-Net of Nichol & Dhariwal 2021 (appendix A) and of Dhariwal & Nichol 2021 ("ADM"), in their state-dict layout."""

from collections.abc import Sequence

from torch import Tensor, nn

from diffusion.networks.encoder import Block, Encoder
from diffusion.networks.layers import Norm, Upsample, doubled, zeroed


class UNet(Encoder):
    """network(x [N, in_channels, S, S], t float [N], y int64 [N] where num_classes) -> [N, out_channels, S, S].

    Takes the settings of `Encoder`, and:
    num_heads_upsample      num_heads in the output blocks; None: as num_heads. num_head_channels wins over both
    gradient_checkpointing  resolutions at which layers are recomputed in the backward pass (`layers.Recomputable`); True: all
    Raises ValueError where `Encoder` does, and where num_heads_upsample does not divide the channels of an attention layer.
    """

    def __init__(self, *, out_channels: int, num_heads_upsample: int | None = None,
                 gradient_checkpointing: bool | Sequence[int] = False, num_res_blocks: int, **settings):
        super().__init__(num_res_blocks=num_res_blocks, **settings)
        self.out_channels = out_channels
        resolution, channels, skips = self.middle_block.resolution, self.widths[-1], list(self.input_widths)
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(self.widths))):
            for index in range(num_res_blocks + 1):
                layers: list[nn.Module] = [self.res(channels + skips.pop(), width),
                                           *self.attention_at(resolution, width, num_heads_upsample)]
                channels = width
                if level and index == num_res_blocks:
                    layers.append(self.res(channels, channels, doubled) if self.resblock_updown else Upsample(channels))
                self.output_blocks.append(Block(resolution, *layers))
            resolution *= 2
        self.out = nn.Sequential(Norm(channels), nn.SiLU(), zeroed(nn.Conv2d(channels, out_channels, 3, padding=1)))
        self.finish(gradient_checkpointing)

    def forward(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None, *,
                embedding: Tensor | None = None, drawn: Tensor | None = None) -> Tensor:
        """The output at times t with labels y; or with the `embedding` [N or 1, E] of both, see `along`."""
        if embedding is None:
            embedding = self.embedded(t, y)
        h, skips = self.encoded(x, embedding, drawn)
        for block in self.output_blocks:
            h = block(h, embedding, skips.pop(), drawn)
        return self.out(h)
