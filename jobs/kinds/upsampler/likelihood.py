"""Bits/dim of large held-out images, given the small images that they reduce to."""

from collections.abc import Callable
from typing import Any

import numpy as np

from diffusion.networks.super_resolution import SuperResolutionUNet, reduced
from jobs.kinds.diffusion import likelihood
from jobs.kinds.upsampler.build import beside
from jobs.kinds.upsampler.sections import UpsamplerSpec
from jobs.parallel.group import Group
from jobs.spec.kinds import OwnNumber


def measure(spec: UpsamplerSpec, network: SuperResolutionUNet, number: OwnNumber, group: Group,
            on_pass: Callable[[], None]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Compute the bound as jobs.kinds.diffusion.likelihood.measure does. The small images have no noise."""
    return likelihood.measure(spec, network, number, group, on_pass,
                              lambda x_start: beside(spec, reduced(x_start, spec.upsampler.low_res_size), 0.0))
