"""The reverse process of one chunk of samples, as a spec has it."""

from collections.abc import Iterator

import numpy as np
import torch

from diffusion.gaussian import GaussianDiffusion
from diffusion.networks.unet import UNet
from diffusion.samplers.chain import Step
from diffusion.samplers.table import sampler_function
from jobs.parallel.precision import autocasting
from jobs.randomness import randn_from
from jobs.sampling.partial import Partial
from jobs.spec.sections import Spec


def reverse_chain(spec: Spec, network: UNet, diffusion: GaussianDiffusion, generator: torch.Generator,
                  labels: np.ndarray | None, rows: int, begun: Partial | None) -> Iterator[Step]:
    """The reverse process of one chunk of `rows` samples, from its beginning or from where it was left."""
    settings, data, device = spec.sample, spec.data, diffusion.device
    randn = randn_from(generator, settings.batch_size)
    if begun:
        generator.set_state(torch.from_numpy(begun.generator))
        state = {name: torch.from_numpy(array).to(device) for name, array in begun.state.items()}
        first_step = begun.next_step
    else:
        state = {"x": randn(torch.empty(rows, data.channels, data.image_size, data.image_size, device=device))}
        first_step = None
    model_kwargs = {} if labels is None else {"y": torch.from_numpy(labels).to(device)}
    network = autocasting(network, settings.precision)
    further = {"eta": settings.ddim_eta} if settings.sampler == "ddim" else {}
    return sampler_function(settings.sampler)(
        diffusion, network, state, randn, first_step=first_step, cuda_graph=settings.cuda_graph and device.type == "cuda",
        clip_denoised=settings.clip_denoised, model_kwargs=model_kwargs, **further)
