"""From a spec to the objects of `diffusion`."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.gaussian import GaussianDiffusion
from diffusion.respacing import space_timesteps
from diffusion.schedules import betas_of
from diffusion.timestep_samplers import LossSecondMomentSampler, TimestepSampler, UniformSampler
from diffusion.unet import UNet
from jobs.spec import Spec


def build_network(spec: Spec, gradient_checkpointing: bool | list[int] = False) -> UNet:
    """The U-Net of a resolved spec, freshly initialised from torch's global random state."""
    data, model = spec.data, spec.model
    return UNet(
        image_size=data.image_size, in_channels=data.channels, out_channels=data.channels * (1 + model.learn_sigma),
        num_channels=model.num_channels, num_res_blocks=model.num_res_blocks, channel_mult=model.channel_mult,
        attention_resolutions=model.attention_resolutions, num_heads=model.num_heads, dropout=model.dropout,
        use_scale_shift_norm=model.use_scale_shift_norm, num_classes=data.num_classes if data.class_cond else None,
        gradient_checkpointing=gradient_checkpointing)


AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Autocast:
    """A network called under autocast: its convolutions and products in `dtype`, its parameters in float32."""

    network: torch.nn.Module
    dtype: torch.dtype

    def __call__(self, x: Tensor, *arguments: Tensor, **model_kwargs: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=self.dtype):
            return self.network(x, *arguments, **model_kwargs)

    def along(self, times: Tensor, **model_kwargs: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """As the network's own `along`; embeddings are computed in float32."""
        at_step = self.network.along(times, **model_kwargs)

        def autocast(x: Tensor, number: Tensor) -> Tensor:
            with torch.autocast(x.device.type, dtype=self.dtype):
                return at_step(x, number)
        return autocast


def autocasting(network: torch.nn.Module, precision: str) -> torch.nn.Module | Autocast:
    """The network as it is for fp32, else under autocast. Losses and samplers around it stay in float32."""
    return network if precision == "fp32" else Autocast(network, AUTOCAST[precision])


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
