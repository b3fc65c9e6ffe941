"""The reverse process of one chunk of samples."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusion.gaussian import GaussianDiffusion, Network
from diffusion.guidance import networks as guiding
from diffusion.networks.unet import UNet
from diffusion.samplers.denoiser import Denoiser, HasAlong
from diffusion.samplers.table import SAMPLERS, sampler_function
from jobs.kinds.diffusion.build import build_diffusion, conditions
from jobs.kinds.diffusion.guidance_rules import strengths
from jobs.kinds.diffusion.guidance_section import Autoguidance, ClassifierFree
from jobs.kinds.diffusion.sections import DiffusionSample, DiffusionSpec
from jobs.kinds.protocol import Begun, Generated
from jobs.parallel.precision import autocasting

Beside = Mapping[str, Tensor]
"""What all networks of a sampling take besides x, the time and classes, [n, ...] each."""
NOTHING: Beside = MappingProxyType({})

OWN_SETTINGS: dict[str, Callable[[DiffusionSample], Any]] = {"eta": lambda sample: sample.ddim_eta}
"""Where a spec has the settings that only some samplers take (`Sampler.settings`)."""


def generate(spec: DiffusionSpec, network: UNet, device: torch.device, randn: Callable[[Tensor], Tensor],
             labels: np.ndarray | None, rows: int, begun: Begun | None, guide: nn.Module | None = None,
             beside: Beside = NOTHING) -> Iterator[Generated]:
    """Yield the reverse process of `rows` samples step by step, from its beginning or from where `begun` was left.

    `guide`: the network that spec.sample.guidance needs beside `network`.
    """
    data = spec.data
    denoise = denoiser(spec, network, build_diffusion(spec, device, spec.sample.timestep_respacing), labels, guide, beside)
    if begun:
        state = begun.state
    else:
        state = {"x": randn(torch.empty(rows, data.channels, data.image_size, data.image_size, device=device))}
    return reverse(spec, denoise, state, randn, begun.left - 1 if begun else None)


def denoiser(spec: DiffusionSpec, network: UNet, diffusion: GaussianDiffusion, labels: np.ndarray | None,
             guide: nn.Module | None = None, beside: Beside = NOTHING) -> Denoiser:
    """Return what samplers ask along the chain `diffusion`, as the spec's `sample` section says.

    `labels` of a network without classes are those that its classifier, the `guide`, shall see.
    """
    given = conditions(labels, diffusion.device)
    guided, gradient = _guidance(spec, autocasting(network, spec.sample.precision), diffusion, given, guide)
    return Denoiser(diffusion, guided, clip_denoised=spec.sample.clip_denoised,
                    dynamic_thresholding_ratio=spec.sample.dynamic_thresholding_ratio, guide=gradient,
                    model_kwargs={**(given if spec.data.class_cond else {}), **beside})


def _guidance(spec: DiffusionSpec, network: Network, diffusion: GaussianDiffusion, given: Mapping[str, Tensor],
              guide: nn.Module | None) -> tuple[Network | HasAlong, guiding.Classifier | None]:
    """Return the network that spec.sample.guidance makes of `network`, and the guide that gives a gradient."""
    guidance = spec.sample.guidance
    if guidance is None:
        return network, None
    at = strengths(guidance, diffusion.coefficients.alphas_cumprod)
    if isinstance(guidance, ClassifierFree):
        return guiding.ClassifierFree(network, spec.data.num_classes or 0, at), None
    assert guide is not None, "whoever samples loads the guide that the kind's `guide` names"
    other = autocasting(guide, spec.sample.precision)
    if isinstance(guidance, Autoguidance):
        return guiding.Autoguidance(network, other, at), None
    return network, guiding.Classifier(other, given["y"], at)


def reverse(spec: DiffusionSpec, denoise: Denoiser, state: Mapping[str, Tensor], randn: Callable[[Tensor], Tensor],
            first_step: int | None = None) -> Iterator[Generated]:
    """Yield the steps of the spec's sampler, from `first_step` (None: the chain's beginning) and its `state` on."""
    settings = spec.sample
    own = {name: OWN_SETTINGS[name](settings) for name in SAMPLERS[settings.sampler].settings}
    for step in sampler_function(settings.sampler)(denoise, state, randn, first_step=first_step,
                                                   cuda_graph=settings.cuda_graph and denoise.diffusion.device.type == "cuda",
                                                   **own):
        yield Generated(step.t, step.x, step.state)
