"""Samples of the prior, and reconstructions: what a decoder says of given latents."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from diffusion.networks.vae import VAE
from jobs.kinds.diffusion.build import conditions
from jobs.kinds.protocol import Begun, Generated
from jobs.kinds.vae.sections import VaeSpec
from jobs.parallel.precision import autocasting


@torch.no_grad()
def generate(spec: VaeSpec, network: VAE, device: torch.device, randn: Callable[[Tensor], Tensor], labels: np.ndarray | None,
             rows: int, begun: Begun | None, guide: nn.Module | None = None) -> Iterator[Generated]:
    """Yield `rows` samples, in one step: z of the prior N(0, 1), and the mean of p(x given z), which is then rounded.

    A sample is this mean, and no draw from p(x given z), which would add noise to each pixel by itself. There is no chunk
    half-way, and nothing guides.
    """
    z = randn(torch.empty(rows, *network.latent_shape, device=device))
    mean, _ = autocasting(network.decoder, spec.sample.precision)(z, **conditions(labels, device))
    yield Generated(0, mean.float().clamp(-1, 1), {})


@torch.no_grad()
def reconstruct(spec: VaeSpec, network: VAE, images: Tensor, labels: np.ndarray | None) -> Tensor:
    """Return the means of p(x given z) at the means z of q(z given x), for x = `images` [n, C, H, W] in [-1, 1]: as `images`."""
    given = conditions(labels, images.device)
    mean, _ = network.decoder(network.encoder(images, **given)[0], **given)
    return mean.clamp(-1, 1)
