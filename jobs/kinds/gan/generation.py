"""The networks of a GAN's spec, and its samples."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from diffusion.networks.gan import Discriminator, Generator
from jobs.kinds.diffusion.build import conditions
from jobs.kinds.diffusion.network_section import widths
from jobs.kinds.gan.sections import GanSpec
from jobs.kinds.protocol import Begun, Generated
from jobs.parallel.precision import autocasting


def build_generator(spec: GanSpec) -> Generator:
    """Return the generator of a spec, initialised from torch's global random state."""
    data, model = spec.data, spec.model
    return Generator(data.image_size, data.channels, spec.gan.latent_size, widths(model), model.num_res_blocks, data.classes)


def build_discriminator(spec: GanSpec) -> Discriminator:
    """Return the discriminator of a spec, initialised from torch's global random state."""
    data, model = spec.data, spec.model
    return Discriminator(data.image_size, data.channels, widths(model), model.num_res_blocks, data.classes)


@torch.no_grad()
def generate(spec: GanSpec, network: Generator, device: torch.device, randn: Callable[[Tensor], Tensor],
             labels: np.ndarray | None, rows: int, begun: Begun | None, guide: nn.Module | None = None) -> Iterator[Generated]:
    """Yield `rows` samples, which are a single step: no chunk is ever half-way."""
    z = randn(torch.empty(rows, spec.gan.latent_size, device=device))
    x = autocasting(network, spec.sample.precision)(z, **conditions(labels, device))
    yield Generated(0, x, {})
