"""The reverse process of one chunk of large images, each made of a small one."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from diffusion.networks.super_resolution import SuperResolutionUNet, noised_low_res
from jobs.kinds.diffusion.generation import generate
from jobs.kinds.protocol import Begun, Generated
from jobs.kinds.upsampler.build import beside, small_images
from jobs.kinds.upsampler.sections import UpsamplerSpec

NOISED = "low_res"
"""Name, in the state of a chunk half-way, of the small images with their noise, which is drawn before all other noise."""


def generate_of(spec: UpsamplerSpec, network: SuperResolutionUNet, device: torch.device, randn: Callable[[Tensor], Tensor],
                labels: np.ndarray | None, given: np.ndarray, begun: Begun | None,
                guide: nn.Module | None = None) -> Iterator[Generated]:
    """Yield the reverse process step by step, from its beginning or from where `begun` was left; see GivingModule."""
    level = spec.sample.low_res_noise
    if not level:
        return generate(spec, network, device, randn, labels, len(given), begun, guide,
                        beside(spec, small_images(spec, given, device), 0.0))
    if begun:
        low_res = begun.state[NOISED]
        begun = Begun(begun.left, {name: tensor for name, tensor in begun.state.items() if name != NOISED})
    else:
        clean = small_images(spec, given, device)
        low_res = noised_low_res(clean, torch.full((len(clean),), level, device=device), randn(clean))
    steps = generate(spec, network, device, randn, labels, len(given), begun, guide, beside(spec, low_res, level))
    return (replace(step, state={**step.state, NOISED: low_res}) for step in steps)
