"""The reverse process of one chunk of samples."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.networks.unet import UNet
from diffusion.samplers.denoiser import Denoiser
from diffusion.samplers.table import SAMPLERS, sampler_function
from jobs.kinds.diffusion.build import build_diffusion, conditions
from jobs.kinds.diffusion.sections import DiffusionSample, DiffusionSpec
from jobs.kinds.protocol import Begun, Generated
from jobs.parallel.precision import autocasting

OWN_SETTINGS: dict[str, Callable[[DiffusionSample], Any]] = {"eta": lambda sample: sample.ddim_eta}
"""Where a spec has the settings that only some samplers take (`Sampler.settings`)."""


def generate(spec: DiffusionSpec, network: UNet, device: torch.device, randn: Callable[[Tensor], Tensor],
             labels: np.ndarray | None, rows: int, begun: Begun | None) -> Iterator[Generated]:
    """Yield the reverse process of `rows` samples step by step, from its beginning or from where `begun` was left."""
    settings, data = spec.sample, spec.data
    diffusion = build_diffusion(spec, device, settings.timestep_respacing)
    if begun:
        state = begun.state
    else:
        state = {"x": randn(torch.empty(rows, data.channels, data.image_size, data.image_size, device=device))}
    denoise = Denoiser(diffusion, autocasting(network, settings.precision), clip_denoised=settings.clip_denoised,
                       model_kwargs=conditions(labels, device))
    own = {name: OWN_SETTINGS[name](settings) for name in SAMPLERS[settings.sampler].settings}
    for step in sampler_function(settings.sampler)(denoise, state, randn, first_step=begun.left - 1 if begun else None,
                                                   cuda_graph=settings.cuda_graph and device.type == "cuda", **own):
        yield Generated(step.t, step.x, step.state)
