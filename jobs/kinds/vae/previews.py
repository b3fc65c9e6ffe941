"""Small pictures for TensorBoard while a run trains: reconstructions beside their originals, and samples of the prior."""

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from diffusion.networks.vae import VAE
from jobs.data.dataset import ImageData
from jobs.data.pictures import as_images, to_x
from jobs.kinds.diffusion.build import conditions
from jobs.kinds.protocol import Weights
from jobs.kinds.vae.sections import VaeSpec, latent_shape
from jobs.randomness import generator_for

SAMPLES, PAIRS, COLUMNS = 16, 16, 8


def originals(spec: VaeSpec, data: ImageData, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Return PAIRS images of the data, evenly spread, as x [n, C, H, W] on the device; and their labels int64 [n], if the network
    takes any."""
    rows = np.linspace(0, len(data) - 1, min(PAIRS, len(data))).round().astype(int)
    x = to_x(torch.from_numpy(np.stack([data.images[row] for row in rows]))).permute(0, 3, 1, 2).to(device)
    return x, None if spec.data.classes is None or data.labels is None else torch.from_numpy(data.labels[rows]).to(device)


@torch.no_grad()
def reconstructed(network: VAE, weights: Weights, x: Tensor, labels: Tensor | None) -> np.ndarray:
    """Return each image of `x` and, right of it, its reconstruction by `weights`: uint8 [2 n, H, W, C]."""
    given = conditions(labels, x.device)
    z, _ = functional_call(network.encoder, _part(weights, "encoder."), (x,), given)
    mean, _ = functional_call(network.decoder, _part(weights, "decoder."), (z,), given)
    return as_images(torch.stack([x, mean], dim=1).flatten(0, 1))


@torch.no_grad()
def sampled(spec: VaeSpec, network: VAE, weights: Weights, device: torch.device) -> np.ndarray:
    """Return SAMPLES samples by `weights`: uint8 [SAMPLES, H, W, C]. The latents are equal at every call."""
    z = torch.randn(SAMPLES, *latent_shape(spec), generator=generator_for(device, spec.train.seed, "preview"), device=device)
    labels = torch.arange(SAMPLES) % spec.data.classes if spec.data.classes else None
    mean, _ = functional_call(network.decoder, _part(weights, "decoder."), (z,), conditions(labels, device))
    return as_images(mean)


def _part(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
