"""The reverse process of one chunk of samples."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from diffusion.networks.unet import UNet
from diffusion.samplers.chain import ancestral, ddim
from jobs.kinds.diffusion.build import build_diffusion, conditions
from jobs.kinds.diffusion.sections import DiffusionSpec
from jobs.kinds.seam import Begun, Generated
from jobs.parallel.precision import autocasting


def generate(spec: DiffusionSpec, network: UNet, device: torch.device, randn: Callable[[Tensor], Tensor],
             labels: np.ndarray | None, rows: int, begun: Begun | None) -> Iterator[Generated]:
    """Yield the reverse process of `rows` samples step by step, from its beginning or from where `begun` was left."""
    settings, data = spec.sample, spec.data
    diffusion = build_diffusion(spec, device, settings.timestep_respacing)
    if begun:
        x, first_step = begun.state["x"], begun.left - 1
    else:
        x, first_step = randn(torch.empty(rows, data.channels, data.image_size, data.image_size, device=device)), None
    options = {"first_step": first_step, "cuda_graph": settings.cuda_graph and device.type == "cuda",
               "clip_denoised": settings.clip_denoised, "model_kwargs": conditions(labels, device)}
    called = autocasting(network, settings.precision)
    if settings.sampler == "ddim":
        steps = ddim(diffusion, called, x, randn, eta=settings.ddim_eta, **options)
    else:
        steps = ancestral(diffusion, called, x, randn, **options)
    for step in steps:
        yield Generated(step.t, step.x, {"x": step.x})
