"""From the spec of a diffusion model to the objects of `diffusion`."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.gaussian import GaussianDiffusion
from diffusion.loss_weights import LOSS_WEIGHTS, loss_weights
from diffusion.networks.unet import UNet
from diffusion.schedules import betas_of
from jobs.kinds.diffusion.network_section import NetworkAsWritten
from jobs.kinds.diffusion.sections import DiffusionSpec, has_null_class, kept_steps


def build_network(spec: DiffusionSpec, gradient_checkpointing: bool | list[int] = False) -> UNet:
    """Return the U-Net of a spec, initialised from torch's global random state."""
    return UNet(**unet_settings(spec), gradient_checkpointing=gradient_checkpointing)


def unet_settings(spec: DiffusionSpec) -> dict[str, Any]:
    """Return the settings of `UNet` in a spec."""
    data, model = spec.data, spec.model
    return {"image_size": data.image_size, "in_channels": data.channels,
            "out_channels": data.channels * (1 + model.learn_sigma), "num_heads_upsample": model.num_heads_upsample,
            "num_classes": data.classes, "null_class": has_null_class(spec), **network_settings(model)}


def network_settings(model: NetworkAsWritten) -> dict[str, Any]:
    """Return the settings of `Encoder` in the section of a U-Net, or of its half."""
    return {name: getattr(model, name) for name in NetworkAsWritten.model_fields}


def build_diffusion(spec: DiffusionSpec, device: torch.device | str, timestep_respacing: str = "",
                    below: int | None = None) -> GaussianDiffusion:
    """Return the process of a spec, with the chain of `timestep_respacing`; "" is the full chain.

    `below`: only with the timesteps of the chain that come before this one. Raises ValueError where there is none.
    """
    diffusion = spec.diffusion
    variance = "learned_range" if spec.model.learn_sigma else "fixed_small" if diffusion.sigma_small else "fixed_large"
    timesteps = kept_steps(spec, timestep_respacing) if timestep_respacing else None
    if below is not None:
        timesteps = [step for step in timesteps or range(diffusion.diffusion_steps) if step < below]
        if not timesteps:
            raise ValueError(f"the chain has no step below {below} of {diffusion.diffusion_steps}")
    return GaussianDiffusion(
        betas_of(diffusion.noise_schedule, diffusion.diffusion_steps), predict=diffusion.predict, variance=variance,
        timesteps=timesteps, rescale_timesteps=diffusion.rescale_timesteps, device=device)


def build_mse_weights(spec: DiffusionSpec, diffusion: GaussianDiffusion) -> Tensor | None:
    """Return the weight of the mean squared error at each step, float32 [T] on the device; None where all count alike."""
    settings = {key: getattr(spec.diffusion, key) for key in LOSS_WEIGHTS[spec.diffusion.loss_weight].settings}
    weights = loss_weights(spec.diffusion.loss_weight, diffusion.coefficients, diffusion.parameterisation, **settings)
    return None if weights is None else torch.tensor(weights, dtype=torch.float32, device=diffusion.device)


def conditions(labels: Tensor | np.ndarray | None, device: torch.device | str) -> dict[str, Tensor]:
    """Return what the network takes besides x and the time: the classes `y` int64 [n], where there are any."""
    return {} if labels is None else {"y": torch.as_tensor(labels).to(device)}
