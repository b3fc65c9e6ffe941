"""New pictures of given ones, for `iddpm make`: the functions of `EditingModule` in jobs.kinds.protocol."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from diffusion.editing.inversion import encode
from diffusion.editing.repaint import repaint, repaint_levels
from diffusion.networks.unet import UNet
from diffusion.samplers.table import SAMPLERS
from jobs.kinds.diffusion.build import build_diffusion
from jobs.kinds.diffusion.generation import denoiser, reverse
from jobs.kinds.diffusion.kind import chain_length
from jobs.kinds.diffusion.sections import DiffusionSpec
from jobs.kinds.protocol import Generated, Walk
from jobs.spec.samplings import with_changes

DDIM_STEPS, ROUNDS = 100, 3
"""Steps of a chain that is walked both ways, at most, and evaluations of the network for each step of encoding."""
REPAINT_STEPS, JUMPS, PASSES = 250, 25, 10
"""RePaint, section 5.1: 250 steps, of which 10 make a jump (a twenty-fifth of the chain), and 10 passes."""

Randn = Callable[[Tensor], Tensor]


def decoded(spec: DiffusionSpec, network: UNet, latents: Tensor, labels: np.ndarray | None, steps: int | None) -> Walk:
    """The images of `latents` [N, C, H, W], by the deterministic chain that `encoded` walks up."""
    spec = _ddim(spec, steps)
    denoise = denoiser(spec, network, build_diffusion(spec, latents.device, spec.sample.timestep_respacing), labels)
    count = denoise.diffusion.num_timesteps
    return Walk(count, count, latents, reverse(spec, denoise, {"x": latents}, torch.randn_like))


def encoded(spec: DiffusionSpec, network: UNet, images: Tensor, labels: np.ndarray | None, steps: int | None) -> Walk:
    """The latents of `images` [N, C, H, W] in [-1, 1]."""
    spec = _ddim(spec, steps)
    denoise = denoiser(spec, network, build_diffusion(spec, images.device, spec.sample.timestep_respacing), labels)
    count = denoise.diffusion.num_timesteps
    return Walk(count, count * ROUNDS, images, _counted(encode(denoise, images, ROUNDS), count))


def varied(spec: DiffusionSpec, network: UNet, images: Tensor, labels: np.ndarray | None, at: float, randn: Randn) -> Walk:
    """`images` [N, C, H, W], noised to the fraction `at` of the trained chain, and denoised by the spec's sampler.

    SDEdit (Meng et al. 2022, algorithm 1). Raises ValueError where the spec's chain has no step in that part.
    """
    settings = spec.sample
    below = round(at * spec.diffusion.diffusion_steps)
    diffusion = build_diffusion(spec, images.device, settings.timestep_respacing, below)
    count = diffusion.num_timesteps
    noised = diffusion.q_sample(images, torch.full((len(images),), count - 1, device=images.device), randn(images))
    denoise = denoiser(spec, network, diffusion, labels)
    return Walk(count, SAMPLERS[settings.sampler].evaluations(count), noised, reverse(spec, denoise, {"x": noised}, randn))


def inpainted(spec: DiffusionSpec, network: UNet, images: Tensor, labels: np.ndarray | None, anew: Tensor, steps: int | None,
              randn: Randn) -> Walk:
    """`images` [N, C, H, W] with the pixels `anew` (bool [H, W]) made anew by RePaint; all others stay to the bit."""
    count = steps or min(chain_length(spec, spec.sample.timestep_respacing), REPAINT_STEPS)
    diffusion = build_diffusion(spec, images.device, str(count))
    denoise, jump = denoiser(spec, network, diffusion, labels), max(1, count // JUMPS)
    levels = list(repaint_levels(count, jump, PASSES))
    evaluations = sum(after < before for before, after in zip(levels, levels[1:], strict=False))
    noise = randn(images)
    moves = repaint(denoise, noise, images, anew, randn, jump=jump, passes=PASSES)
    return Walk(len(levels) - 1, evaluations, noise, _counted(moves, len(levels) - 1))


def _ddim(spec: DiffusionSpec, steps: int | None) -> DiffusionSpec:
    """`spec` with the deterministic chain: even in log-SNR, so that steps differ little and rounds converge at all of them."""
    count = steps or min(chain_length(spec, spec.sample.timestep_respacing), DDIM_STEPS)
    return with_changes(spec, (("sampler", "ddim"), ("ddim_eta", 0.0), ("timestep_respacing", f"logsnr{count}")))


def _counted(moves: Iterable[Tensor], count: int) -> Iterator[Generated]:
    for number, x in enumerate(moves, start=1):
        yield Generated(count - number, x, {})
