"""Small pictures for TensorBoard while a run trains."""

import numpy as np
import torch
from torch import Tensor

from diffusion.gaussian import GaussianDiffusion
from diffusion.networks.unet import UNet
from diffusion.samplers.ddim import ddim
from diffusion.samplers.denoiser import Denoiser
from jobs.data.dataset import ImageData
from jobs.data.pictures import as_images, to_x
from jobs.kinds.diffusion.build import build_diffusion, conditions
from jobs.kinds.diffusion.generation import NOTHING, Beside
from jobs.kinds.diffusion.sections import DiffusionSpec
from jobs.kinds.protocol import Weights
from jobs.randomness import generator_for, randn_from

SAMPLES, STEPS, STRIP = 16, 50, 9


def noising_preview(diffusion: GaussianDiffusion, data: ImageData, seed: int) -> np.ndarray:
    """Return the first image of the data at STRIP evenly spaced steps of the forward process: uint8 [STRIP, H, W, C]."""
    image = to_x(torch.from_numpy(np.array(data.images[:1]))).permute(0, 3, 1, 2).to(diffusion.device)
    t = torch.linspace(0, diffusion.num_timesteps - 1, STRIP, device=diffusion.device).long()
    noise = randn_from(generator_for(diffusion.device, seed, "noising preview"), STRIP)(image.expand(STRIP, -1, -1, -1))
    return as_images(diffusion.q_sample(image, t, noise))


def denoising_preview(spec: DiffusionSpec, network: UNet, weights: Weights,
                      device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Return SAMPLES quick samples by `weights`, whose classes take turns, and stages of the first one: see `quick_samples`."""
    return quick_samples(spec, network, weights, device, torch.arange(SAMPLES) % spec.data.classes if spec.data.classes else None)


def quick_samples(spec: DiffusionSpec, network: UNet, weights: Weights, device: torch.device, labels: Tensor | None,
                  beside: Beside = NOTHING, count: int = SAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """Return `count` quick samples (at most STEPS steps of DDIM) by `weights`, and STRIP stages of the first one.

    uint8 [count, H, W, C] and [STRIP, H, W, C]. The noise is equal at every call, so that only the training shows.
    """
    diffusion = build_diffusion(spec, device, str(min(STEPS, spec.diffusion.diffusion_steps)))
    generator = generator_for(device, spec.train.seed, "preview")
    x_T = torch.randn(count, spec.data.channels, spec.data.image_size, spec.data.image_size, generator=generator, device=device)

    def averaged(x: Tensor, t: Tensor, **model_kwargs) -> Tensor:
        return torch.func.functional_call(network, dict(weights), (x, t), model_kwargs)

    training = network.training
    network.eval()
    try:
        denoise = Denoiser(diffusion, averaged, model_kwargs={**conditions(labels, device), **beside})
        steps = list(ddim(denoise, {"x": x_T}, randn_from(generator, count)))
    finally:
        network.train(training)
    stages = np.linspace(0, len(steps) - 1, STRIP).round().astype(int)
    return as_images(steps[-1].x), as_images(torch.cat([steps[stage].x[:1] for stage in stages]))
