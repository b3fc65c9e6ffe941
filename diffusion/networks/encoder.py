"""The half of the U-Net that leads down: embedding of time, input blocks, middle block. `UNet` and `HalfUNet` share it.

The state-dict layout is that of the networks of Nichol & Dhariwal 2021, and of those of Dhariwal & Nichol 2021 ("ADM").
"""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn

from diffusion.networks.layers import (
    Attention,
    Downsample,
    Recomputable,
    ResBlock,
    Upsample,
    doubled,
    halved,
    timestep_embedding,
)


class Block(nn.ModuleList):
    """Layers whose input has one resolution (in pixels), one after another. Residual blocks also take the embedding."""

    def __init__(self, resolution: int, *layers: nn.Module):
        super().__init__(layers)
        self.resolution = resolution

    def with_resolutions(self) -> Iterator[tuple[nn.Module, int]]:
        """Yield each layer with the resolution of its output."""
        resolution = self.resolution
        for layer in self:
            resample = layer.resample if isinstance(layer, ResBlock) else None
            if resample is halved or isinstance(layer, Downsample):
                resolution //= 2
            elif resample is doubled or isinstance(layer, Upsample):
                resolution *= 2
            yield layer, resolution

    def forward(self, x: Tensor, embedding: Tensor, skip: Tensor | None = None, drawn: Tensor | None = None) -> Tensor:
        """x [N, C, H, W], embedding [N or 1, E], random numbers `drawn` for dropout; in the decoder also the output `skip`
        [N, S, H, W] of an encoder block."""
        for layer in self:
            if isinstance(layer, ResBlock):
                x, skip = layer(x, embedding, skip, None if drawn is None else drawn[:, layer.own_draws]), None
            else:
                x = layer(x)
        return x


class Encoder(nn.Module):
    """Embedding, input blocks and middle block; a subclass adds what follows, and then calls `finish`.

    image_size               S, divisible by 2 ** (len(channel_mult) - 1)
    channel_mult             channels of each level, as multiples of num_channels: int(mult * num_channels). The first convolution
                             has as many channels as the first level
    attention_resolutions    sizes in pixels
    num_heads                of each attention layer
    num_head_channels        instead of num_heads: channels of one head
    use_new_attention_order  order of the rows of qkv, see `layers.Attention`
    resblock_updown          resize between levels by residual blocks, not by single convolutions
    null_class               one more row of label_emb, with the label num_classes: "no class", for classifier-free guidance
    dropout                  masks are functions of the numbers `drawn` int32 [N, draws], see diffusion.networks.dropout
    Raises ValueError where the levels do not divide image_size, or the heads do not divide the channels of an attention layer.
    """

    def __init__(self, *, image_size: int, in_channels: int, num_channels: int, num_res_blocks: int,
                 channel_mult: Sequence[float], attention_resolutions: Sequence[int], num_heads: int,
                 num_head_channels: int | None = None, use_new_attention_order: bool = False, resblock_updown: bool = False,
                 dropout: float = 0.0, use_scale_shift_norm: bool = True, num_classes: int | None = None,
                 null_class: bool = False):
        super().__init__()
        if image_size % 2 ** (len(channel_mult) - 1):
            raise ValueError(f"image_size {image_size} cannot be halved {len(channel_mult) - 1} times")
        self.image_size, self.in_channels = image_size, in_channels
        self.num_channels, self.num_classes, self.null_class = num_channels, num_classes, null_class
        self.attention_resolutions, self.num_heads, self.num_head_channels = attention_resolutions, num_heads, num_head_channels
        self.use_new_attention_order, self.resblock_updown = use_new_attention_order, resblock_updown
        self.dropout, self.use_scale_shift_norm = dropout, use_scale_shift_norm
        self.widths = [int(mult * num_channels) for mult in channel_mult]
        embedding = 4 * num_channels
        self.time_embed = nn.Sequential(nn.Linear(num_channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes + null_class, embedding)

        channels, resolution = self.widths[0], image_size
        self.input_widths = [channels]
        """Channels of the output of each input block."""
        self.input_blocks = nn.ModuleList([Block(resolution, nn.Conv2d(in_channels, channels, 3, padding=1))])
        for level, width in enumerate(self.widths):
            for _ in range(num_res_blocks):
                self.input_blocks.append(Block(resolution, self.res(channels, width), *self.attention_at(resolution, width)))
                channels = width
                self.input_widths.append(channels)
            if level < len(self.widths) - 1:
                down = self.res(channels, channels, halved) if resblock_updown else Downsample(channels)
                self.input_blocks.append(Block(resolution, down))
                self.input_widths.append(channels)
                resolution //= 2
        self.middle_block = Block(resolution, self.res(channels, channels), self.attention(channels),
                                  self.res(channels, channels))

    def res(self, inputs: int, outputs: int, resample: Callable[[Tensor], Tensor] | None = None) -> ResBlock:
        """Return a new residual block of this network."""
        return ResBlock(inputs, outputs, 4 * self.num_channels, self.dropout, self.use_scale_shift_norm, resample)

    def heads(self, channels: int, num_heads: int | None = None) -> int:
        """Return the number of heads of an attention layer; `num_heads`: another than the network's, if it has no
        num_head_channels. Raises ValueError where num_head_channels does not divide the channels."""
        if self.num_head_channels is None:
            return num_heads or self.num_heads
        if channels % self.num_head_channels:
            raise ValueError(f"heads of {self.num_head_channels} channels do not divide {channels} channels")
        return channels // self.num_head_channels

    def attention(self, channels: int, num_heads: int | None = None) -> Attention:
        """Return a new attention layer of this network."""
        return Attention(channels, self.heads(channels, num_heads), self.use_new_attention_order)

    def attention_at(self, resolution: int, channels: int, num_heads: int | None = None) -> list[nn.Module]:
        """Return the attention layer behind a residual block, none where the network has none at this resolution."""
        return [self.attention(channels, num_heads)] if resolution in self.attention_resolutions else []

    def finish(self, gradient_checkpointing: bool | Sequence[int]) -> None:
        """Set up all blocks, which now exist, for dropout and gradient checkpointing."""
        self.checkpoint_gradients(gradient_checkpointing)
        self.draws = self._share_out_draws() if self.dropout else 0  # random numbers that dropout needs for one example

    def _layers(self) -> Iterator[tuple[nn.Module, int]]:
        """Yield the layers of all blocks, with the resolutions of their outputs."""
        for block in self.modules():
            if isinstance(block, Block):
                yield from block.with_resolutions()

    def _share_out_draws(self) -> int:
        """Give each layer with dropout its part of an example's random numbers. Return how many numbers there are."""
        draws = 0
        for layer, resolution in self._layers():
            if isinstance(layer, ResBlock):
                draws = layer.draws_at(draws, resolution ** 2)
        return draws

    def checkpoint_gradients(self, where: bool | Sequence[int]) -> None:
        """Recompute layers in the backward pass (`layers.Recomputable`): True: all; or those whose output has a resolution
        in `where`."""
        for layer, resolution in self._layers():
            if isinstance(layer, Recomputable):
                layer.recompute = where if isinstance(where, bool) else resolution in where

    def along(self, times: Tensor, y: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]:
        """at_step(x, number int64 [1]) = forward(x, times[number], y), for `times` [K]. Computes all embeddings here, once."""
        time, label = self._time_embedding(times), self._label_embedding(y)

        def at_step(x: Tensor, number: Tensor) -> Tensor:
            embedding = time.index_select(0, number)  # [1, E], for all examples
            return self(x, embedding=embedding if label is None else embedding + label)
        return at_step

    def embedded(self, t: Tensor | None, y: Tensor | None) -> Tensor:
        """Return the embedding [N, E] of times t [N] and labels y [N]."""
        if t is None:
            raise ValueError("the network needs times t or their embedding")
        embedding, label = self._time_embedding(t), self._label_embedding(y)
        return embedding if label is None else embedding + label

    def _time_embedding(self, t: Tensor) -> Tensor:
        return self.time_embed(timestep_embedding(t, self.num_channels))

    def _label_embedding(self, y: Tensor | None) -> Tensor | None:
        if (y is None) != (self.num_classes is None):
            raise ValueError("class labels y are needed exactly where the network has classes")
        return None if y is None else self.label_emb(y)

    def encoded(self, x: Tensor, embedding: Tensor, drawn: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Return the output of the middle block, and those of all input blocks in order."""
        h, outputs = x, []
        for block in self.input_blocks:
            h = block(h, embedding, drawn=drawn)
            outputs.append(h)
        return self.middle_block(h, embedding, drawn=drawn), outputs
