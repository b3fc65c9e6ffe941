"""The U-Net of Nichol & Dhariwal 2021 (appendix A), with the state-dict layout of its published checkpoints."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from diffusion.networks.layers import (
    Attention,
    Downsample,
    Norm,
    Recomputable,
    ResBlock,
    Upsample,
    timestep_embedding,
    zeroed,
)


class Block(nn.ModuleList):
    """Layers at one resolution (in pixels), one after another. Residual blocks also take the embedding of time and class."""

    def __init__(self, resolution: int, *layers: nn.Module):
        super().__init__(layers)
        self.resolution = resolution

    def forward(self, x: Tensor, embedding: Tensor, skip: Tensor | None = None, drawn: Tensor | None = None) -> Tensor:
        """x [N, C, H, W], embedding [N or 1, E], random numbers `drawn` for dropout; in the decoder also the output `skip`
        [N, S, H, W] of an encoder block."""
        for layer in self:
            if isinstance(layer, ResBlock):
                x, skip = layer(x, embedding, skip, drawn), None
            else:
                x = layer(x)
        return x


class UNet(nn.Module):
    """network(x [N, in_channels, S, S], t float [N], y int64 [N] where num_classes) -> [N, out_channels, S, S].

    image_size              S, divisible by 2 ** (len(channel_mult) - 1)
    channel_mult            channels of each level, as multiples of num_channels
    attention_resolutions   sizes in pixels
    dropout                 masks are functions of the numbers `drawn` int32 [N, draws], see diffusion.networks.dropout
    gradient_checkpointing  resolutions at which layers are recomputed in the backward pass (`layers.Recomputable`); True: all
    Raises ValueError where the levels do not divide image_size, or num_heads does not divide the channels of an attention layer.
    """

    def __init__(self, *, image_size: int, in_channels: int, out_channels: int, num_channels: int, num_res_blocks: int,
                 channel_mult: list[int], attention_resolutions: list[int], num_heads: int, dropout: float = 0.0,
                 use_scale_shift_norm: bool = True, num_classes: int | None = None,
                 gradient_checkpointing: bool | Sequence[int] = False):
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
        self.input_blocks = nn.ModuleList([Block(resolution, nn.Conv2d(in_channels, channels, 3, padding=1))])
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                self.input_blocks.append(Block(resolution, res(channels, mult * num_channels),
                                               *attention_at(resolution, mult * num_channels)))
                channels = mult * num_channels
                skips.append(channels)
            if level < len(channel_mult) - 1:
                self.input_blocks.append(Block(resolution, Downsample(channels)))
                skips.append(channels)
                resolution //= 2

        self.middle_block = Block(resolution, res(channels, channels), Attention(channels, num_heads), res(channels, channels))

        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for index in range(num_res_blocks + 1):
                layers: list[nn.Module] = [res(channels + skips.pop(), mult * num_channels),
                          *attention_at(resolution, mult * num_channels)]
                channels = mult * num_channels
                last = level and index == num_res_blocks
                self.output_blocks.append(Block(resolution, *layers, *([Upsample(channels)] if last else [])))
            resolution *= 2

        self.out = nn.Sequential(Norm(channels), nn.SiLU(), zeroed(nn.Conv2d(channels, out_channels, 3, padding=1)))
        self.checkpoint_gradients(gradient_checkpointing)
        self.draws = self._share_out_draws() if dropout else 0  # random numbers that dropout needs for one example

    def _share_out_draws(self) -> int:
        """Give each layer with dropout its part of an example's random numbers. Return how many numbers there are."""
        draws = 0
        for block in [module for module in self.modules() if isinstance(module, Block)]:
            for layer in block:
                if isinstance(layer, ResBlock):
                    draws = layer.draws_at(draws, block.resolution ** 2)
        return draws

    def checkpoint_gradients(self, where: bool | Sequence[int]) -> None:
        """Change `gradient_checkpointing` to `where`."""
        for block in self.modules():
            if isinstance(block, Block):
                for layer in block:
                    if isinstance(layer, Recomputable):
                        layer.recompute = where if isinstance(where, bool) else block.resolution in where

    def along(self, times: Tensor, y: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]:
        """at_step(x, number int64 [1]) = forward(x, times[number], y), for `times` [K]. Computes all embeddings here, once."""
        time, label = self._time_embedding(times), self._label_embedding(y)

        def at_step(x: Tensor, number: Tensor) -> Tensor:
            embedding = time.index_select(0, number)  # [1, E], for all examples
            return self(x, embedding=embedding if label is None else embedding + label)
        return at_step

    def _time_embedding(self, t: Tensor) -> Tensor:
        return self.time_embed(timestep_embedding(t, self.num_channels))

    def _label_embedding(self, y: Tensor | None) -> Tensor | None:
        if (y is None) != (self.num_classes is None):
            raise ValueError("class labels y are needed exactly where the network has classes")
        return None if y is None else self.label_emb(y)

    def forward(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None, *,
                embedding: Tensor | None = None, drawn: Tensor | None = None) -> Tensor:
        """The output at times t with labels y; or with the `embedding` [N or 1, E] of both, see `along`."""
        if embedding is None:
            if t is None:
                raise ValueError("the network needs times t or their embedding")
            embedding, label = self._time_embedding(t), self._label_embedding(y)
            embedding = embedding if label is None else embedding + label
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h, embedding, drawn=drawn)
            skips.append(h)
        h = self.middle_block(h, embedding, drawn=drawn)
        for block in self.output_blocks:
            h = block(h, embedding, skips.pop(), drawn)
        return self.out(h)
