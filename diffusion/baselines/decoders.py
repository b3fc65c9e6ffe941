"""Latents and decoders of a variational autoencoder by name, without torch: a login node reads these tables."""

from dataclasses import dataclass

LATENTS = ("spatial", "vector")
"""spatial: a map of latents at the resolution of the deepest level; vector: one vector for the whole image."""


@dataclass(frozen=True)
class Decoder:
    """p(x given z): a normal distribution around what the network decodes, with a scale sigma."""

    discrete: bool
    """A probability of the 256 grey levels, as the diffusion's L_0 is one, so that its ELBO bounds the same bits/dim. Otherwise a
    density of real numbers, which compares with no probability."""
    scale_per_value: bool
    """The network gives each channel of each pixel a sigma of its own; otherwise one learned sigma serves all."""


DECODERS = {"discretized_gaussian": Decoder(discrete=True, scale_per_value=True),
            "gaussian": Decoder(discrete=False, scale_per_value=False)}
