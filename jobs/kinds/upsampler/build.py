"""From the spec of a model that enlarges images to its network, and from images to the small ones that the network takes."""

import numpy as np
import torch
from torch import Tensor

from diffusion.networks.super_resolution import SuperResolutionUNet, reduced
from jobs.data.pictures import to_x
from jobs.kinds.diffusion.build import unet_settings
from jobs.kinds.upsampler.sections import UpsamplerSpec


def build_network(spec: UpsamplerSpec, gradient_checkpointing: bool | list[int] = False) -> SuperResolutionUNet:
    """Return the network of a spec, initialised from torch's global random state."""
    return SuperResolutionUNet(knows_level=spec.upsampler.low_res_noise > 0, gradient_checkpointing=gradient_checkpointing,
                               **unet_settings(spec))


def small_images(spec: UpsamplerSpec, images: np.ndarray, device: torch.device | str) -> Tensor:
    """Return the small images [n, C, s, s] in [-1, 1] of `images` uint8 [n, H, W, C], small ones or large ones."""
    x = to_x(torch.from_numpy(np.array(images)).to(device)).permute(0, 3, 1, 2).contiguous()
    return x if x.shape[-1] == spec.upsampler.low_res_size else reduced(x, spec.upsampler.low_res_size)


def beside(spec: UpsamplerSpec, low_res: Tensor, level: float | Tensor) -> dict[str, Tensor]:
    """Return what the network takes besides x, the time and classes, where `low_res` [n, C, s, s] has noise of this level."""
    if not spec.upsampler.low_res_noise:
        return {"low_res": low_res}
    return {"low_res": low_res, "level": torch.as_tensor(level, device=low_res.device).float().expand(len(low_res))}
