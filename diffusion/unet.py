"""The U-Net of Nichol & Dhariwal 2021 (appendix A), with the state-dict layout of its published checkpoints."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion.layers import Attention, Downsample, Norm, ResBlock, Upsample, timestep_embedding, zeroed


class Block(nn.Sequential):
    """Layers one after another; residual blocks also see the embedding of time and class."""

    gradient_checkpointing = False

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for layer in self:
            arguments = (x, embedding) if isinstance(layer, ResBlock) else (x,)
            if self.gradient_checkpointing and torch.is_grad_enabled() and isinstance(layer, (ResBlock, Attention)):
                # Non-reentrant: restores dropout's random state, works under autocast and DDP.
                x = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                x = layer(*arguments)
        return x


class UNet(nn.Module):
    """network(x [N, in_channels, S, S], t float [N], y int64 [N] where num_classes) -> [N, out_channels, S, S].

    image_size S must be divisible by 2 ** (len(channel_mult) - 1). attention_resolutions are sizes in pixels.
    With gradient_checkpointing residual and attention blocks are recomputed in the backward pass; gradients are the same.
    """

    def __init__(self, *, image_size: int, in_channels: int, out_channels: int, num_channels: int, num_res_blocks: int,
                 channel_mult: list[int], attention_resolutions: list[int], num_heads: int, dropout: float = 0.0,
                 use_scale_shift_norm: bool = True, num_classes: int | None = None, gradient_checkpointing: bool = False):
        super().__init__()
        if image_size % 2 ** (len(channel_mult) - 1):
            raise ValueError(f"image_size {image_size} cannot be halved {len(channel_mult) - 1} times")
        self.image_size, self.in_channels, self.out_channels = image_size, in_channels, out_channels
        self.num_channels, self.num_classes = num_channels, num_classes
        embedding = 4 * num_channels
        self.time_embed = nn.Sequential(nn.Linear(num_channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, embedding)

        def res(inputs: int, outputs: int) -> ResBlock:
            return ResBlock(inputs, outputs, embedding, dropout, use_scale_shift_norm)

        def attention_at(resolution: int, channels: int) -> list[nn.Module]:
            return [Attention(channels, num_heads)] if resolution in attention_resolutions else []

        channels, resolution, skips = num_channels, image_size, [num_channels]
        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(in_channels, channels, 3, padding=1))])
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                self.input_blocks.append(Block(res(channels, mult * num_channels),
                                               *attention_at(resolution, mult * num_channels)))
                channels = mult * num_channels
                skips.append(channels)
            if level < len(channel_mult) - 1:
                self.input_blocks.append(Block(Downsample(channels)))
                skips.append(channels)
                resolution //= 2

        self.middle_block = Block(res(channels, channels), Attention(channels, num_heads), res(channels, channels))

        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for index in range(num_res_blocks + 1):
                layers = [res(channels + skips.pop(), mult * num_channels),
                          *attention_at(resolution, mult * num_channels)]
                channels = mult * num_channels
                if level and index == num_res_blocks:
                    layers.append(Upsample(channels))
                    resolution *= 2
                self.output_blocks.append(Block(*layers))

        self.out = nn.Sequential(Norm(channels), nn.SiLU(), zeroed(nn.Conv2d(channels, out_channels, 3, padding=1)))
        for block in (*self.input_blocks, self.middle_block, *self.output_blocks):
            block.gradient_checkpointing = gradient_checkpointing

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if (y is None) != (self.num_classes is None):
            raise ValueError("class labels y are needed exactly where the network has classes")
        embedding = self.time_embed(timestep_embedding(t, self.num_channels))
        if y is not None:
            embedding = embedding + self.label_emb(y)
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h, embedding)
            skips.append(h)
        h = self.middle_block(h, embedding)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        return self.out(h)
