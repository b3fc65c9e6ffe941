"""The classifier of noisy images of Dhariwal & Nichol 2021: the half of the U-Net that leads down, with a pool behind it.

The state-dict layout is that of the published classifiers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.lookup import look_up
from diffusion.networks.encoder import Encoder
from diffusion.networks.layers import Norm, attention, zeroed
from diffusion.networks.pools import HIDDEN


class AttentionPool(nn.Module):
    """x [N, C, H, W] of `positions` = H W -> [N, out_channels]: the mean over positions attends to itself and all positions.

    The pool of CLIP (Radford et al. 2021, section 2.4). The rows of `qkv_proj` are ordered by q, k, v, then head.
    """

    def __init__(self, channels: int, positions: int, num_heads: int, out_channels: int):
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"{num_heads} heads do not divide {channels} channels")
        self.num_heads = num_heads
        self.positional_embedding = nn.Parameter(torch.randn(channels, positions + 1) / channels ** 0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        pixels = x.flatten(2)
        tokens = torch.cat([pixels.mean(dim=2, keepdim=True), pixels], dim=2) + self.positional_embedding  # [N, C, 1 + T]
        tokens = tokens.transpose(1, 2)
        # Only the first token's result is used, so only its query is computed.
        (q_weight, kv_weight), (q_bias, kv_bias) = (part.split([c, 2 * c]) for part in self.qkv_proj.parameters())
        q = F.linear(tokens[:, :1], q_weight.flatten(1), q_bias).view(n, 1, self.num_heads, -1).transpose(1, 2)
        keys_values = F.linear(tokens, kv_weight.flatten(1), kv_bias).view(n, tokens.shape[1], 2, self.num_heads, -1)
        k, v = keys_values.permute(2, 0, 3, 1, 4)  # [N, heads, 1 + T, C/heads]
        attended = attention(q, k, v).reshape(n, c)
        return F.linear(attended, self.c_proj.weight.flatten(1), self.c_proj.bias)


class HalfUNet(Encoder):
    """network(x [N, in_channels, S, S], t float [N]) -> logits [N, out_channels] of the classes.

    Takes the settings of `Encoder`, except num_classes and null_class, and:
    out_channels            number of classes
    pool                    one of pools.POOLS
    gradient_checkpointing  resolutions at which layers are recomputed in the backward pass; True: all
    The published classifiers have num_head_channels 64, scale-shift norms, resblock_updown, pool "attention" and no dropout.
    `along(times)` gives at_step(x, number) -> logits. Raises ValueError where `Encoder` does, and where `pool` is unknown.
    """

    def __init__(self, *, out_channels: int, pool: str = "attention", num_heads: int = 1,
                 gradient_checkpointing: bool | Sequence[int] = False, **settings):
        super().__init__(num_heads=num_heads, **settings)
        self.out_channels, self.pool = out_channels, pool
        self.out = look_up(OUTS, pool, "pool")(self)
        self.finish(gradient_checkpointing)

    def forward(self, x: Tensor, t: Tensor | None = None, *, embedding: Tensor | None = None,
                drawn: Tensor | None = None) -> Tensor:
        """The logits at times t; or with their `embedding` [N or 1, E], see `along`."""
        h, outputs = self.encoded(x, self.embedded(t, None) if embedding is None else embedding, drawn)
        if self.pool in ("attention", "adaptive"):
            return self.out(h)
        return self.out(torch.cat([each.mean(dim=(2, 3)) for each in (*outputs, h)], dim=1))


def _attention(network: HalfUNet) -> nn.Sequential:
    channels = network.widths[-1]
    pool = AttentionPool(channels, network.middle_block.resolution ** 2, network.heads(channels), network.out_channels)
    return nn.Sequential(Norm(channels), nn.SiLU(), pool)


def _adaptive(network: HalfUNet) -> nn.Sequential:
    channels = network.widths[-1]
    return nn.Sequential(Norm(channels), nn.SiLU(), nn.AdaptiveAvgPool2d(1),
                         zeroed(nn.Conv2d(channels, network.out_channels, 1)), nn.Flatten())


def _spatial(network: HalfUNet) -> nn.Sequential:
    features = sum(network.input_widths) + network.widths[-1]
    return nn.Sequential(nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, network.out_channels))


def _spatial_v2(network: HalfUNet) -> nn.Sequential:
    features = sum(network.input_widths) + network.widths[-1]
    return nn.Sequential(nn.Linear(features, HIDDEN), Norm(HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, network.out_channels))


OUTS = {"attention": _attention, "adaptive": _adaptive, "spatial": _spatial, "spatial_v2": _spatial_v2}
"""By each name of pools.POOLS: what makes the layers behind the middle block."""
