"""From a spec to the objects of `diffusion`."""


import torch

from diffusion.gaussian import GaussianDiffusion
from diffusion.networks.unet import UNet
from diffusion.respacing import space_timesteps
from diffusion.schedules import betas_of
from diffusion.timestep_samplers import LossSecondMomentSampler, TimestepSampler, UniformSampler
from jobs.spec.sections import Spec


def build_network(spec: Spec, gradient_checkpointing: bool | list[int] = False) -> UNet:
    """The U-Net of a resolved spec, freshly initialised from torch's global random state."""
    data, model = spec.data, spec.model
    return UNet(
        image_size=data.image_size, in_channels=data.channels, out_channels=data.channels * (1 + model.learn_sigma),
        num_channels=model.num_channels, num_res_blocks=model.num_res_blocks, channel_mult=model.channel_mult,
        attention_resolutions=model.attention_resolutions, num_heads=model.num_heads, dropout=model.dropout,
        use_scale_shift_norm=model.use_scale_shift_norm, num_classes=data.num_classes if data.class_cond else None,
        gradient_checkpointing=gradient_checkpointing)


def build_diffusion(spec: Spec, device: torch.device | str, timestep_respacing: str = "") -> GaussianDiffusion:
    diffusion = spec.diffusion
    variance = "learned_range" if spec.model.learn_sigma else "fixed_small" if diffusion.sigma_small else "fixed_large"
    timesteps = space_timesteps(diffusion.diffusion_steps, timestep_respacing) if timestep_respacing else None
    return GaussianDiffusion(
        betas_of(diffusion.noise_schedule, diffusion.diffusion_steps), predict=diffusion.predict, variance=variance,
        timesteps=timesteps, rescale_timesteps=diffusion.rescale_timesteps, device=device)


def build_timestep_sampler(spec: Spec) -> TimestepSampler:
    kind = {"uniform": UniformSampler, "loss-second-moment": LossSecondMomentSampler}[spec.train.schedule_sampler]
    return kind(spec.diffusion.diffusion_steps)
