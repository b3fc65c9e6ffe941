"""From the spec of a classifier of noisy images to the objects of `diffusion`."""

import torch

from diffusion.gaussian import GaussianDiffusion
from diffusion.networks.half_unet import HalfUNet
from diffusion.schedules import betas_of
from jobs.kinds.diffusion.build import network_settings
from jobs.kinds.noisy_classifier.sections import ClassifierSpec


def build_network(spec: ClassifierSpec, gradient_checkpointing: bool | list[int] = False) -> HalfUNet:
    """Return the half U-Net of a spec, initialised from torch's global random state."""
    data, model = spec.data, spec.model
    return HalfUNet(image_size=data.image_size, in_channels=data.channels, out_channels=data.num_classes or 0, pool=model.pool,
                    gradient_checkpointing=gradient_checkpointing, **network_settings(model))


def build_process(spec: ClassifierSpec, device: torch.device | str) -> GaussianDiffusion:
    """Return the process that adds noise to the images."""
    process = spec.diffusion
    return GaussianDiffusion(betas_of(process.noise_schedule, process.diffusion_steps),
                             rescale_timesteps=process.rescale_timesteps, device=device)
