"""New pictures of given ones, for `iddpm make`: the functions of `EditingModule` in jobs.kinds.protocol."""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from diffusion.editing.inversion import encode
from diffusion.editing.repaint import repaint, repaint_levels
from diffusion.gaussian import GaussianDiffusion
from diffusion.networks.unet import UNet
from diffusion.samplers.table import SAMPLERS
from jobs.kinds.diffusion.build import build_diffusion
from jobs.kinds.diffusion.generation import denoiser, reverse
from jobs.kinds.diffusion.guidance_rules import strengths
from jobs.kinds.diffusion.kind import chain_length
from jobs.kinds.diffusion.sections import DiffusionSpec
from jobs.kinds.protocol import Generated, Walk
from jobs.spec.samplings import with_changes

DDIM_STEPS, ROUNDS = 100, 3
"""Steps of a chain that is walked both ways, at most, and evaluations of the network for each step of encoding."""
REPAINT_STEPS, JUMPS, PASSES = 250, 25, 10
"""RePaint, section 5.1: 250 steps, of which 10 make a jump (a twenty-fifth of the chain), and 10 passes."""

Randn = Callable[[Tensor], Tensor]


def decoded(spec: DiffusionSpec, network: UNet, guide: nn.Module | None, latents: Tensor, labels: np.ndarray | None,
            steps: int | None) -> Walk:
    """The images of `latents` [N, C, H, W], by the deterministic chain that `encoded` walks up."""
    spec = _ddim(spec, steps)
    diffusion = build_diffusion(spec, latents.device, spec.sample.timestep_respacing)
    denoise = denoiser(spec, network, diffusion, labels, guide)
    return Walk(diffusion.num_timesteps, int(_evaluations(spec, diffusion).sum()), latents,
                reverse(spec, denoise, {"x": latents}, torch.randn_like))


def encoded(spec: DiffusionSpec, network: UNet, guide: nn.Module | None, images: Tensor, labels: np.ndarray | None,
            steps: int | None) -> Walk:
    """The latents of `images` [N, C, H, W] in [-1, 1]."""
    spec = _ddim(spec, steps)
    diffusion = build_diffusion(spec, images.device, spec.sample.timestep_respacing)
    moves = encode(denoiser(spec, network, diffusion, labels, guide), images, ROUNDS)
    return Walk(diffusion.num_timesteps, ROUNDS * int(_evaluations(spec, diffusion).sum()), images,
                _counted(moves, diffusion.num_timesteps))


def varied(spec: DiffusionSpec, network: UNet, guide: nn.Module | None, images: Tensor, labels: np.ndarray | None, at: float,
           randn: Randn) -> Walk:
    """`images` [N, C, H, W], noised to the fraction `at` of the trained chain, and denoised by the spec's sampler.

    SDEdit (Meng et al. 2022, algorithm 1). Raises ValueError where the spec's chain has no step in that part.
    """
    settings = spec.sample
    below = round(at * spec.diffusion.diffusion_steps)
    diffusion = build_diffusion(spec, images.device, settings.timestep_respacing, below)
    count = diffusion.num_timesteps
    noised = diffusion.q_sample(images, torch.full((len(images),), count - 1, device=images.device), randn(images))
    each, evaluated = _evaluations(spec, diffusion), SAMPLERS[settings.sampler].evaluated(count)
    denoise = denoiser(spec, network, diffusion, labels, guide)
    return Walk(count, sum(int(each[number]) for number in evaluated), noised, reverse(spec, denoise, {"x": noised}, randn))


def inpainted(spec: DiffusionSpec, network: UNet, guide: nn.Module | None, images: Tensor, labels: np.ndarray | None,
              anew: Tensor, steps: int | None, randn: Randn) -> Walk:
    """`images` [N, C, H, W] with the pixels `anew` (bool [H, W]) made anew by RePaint; all others stay to the bit."""
    count = steps or min(chain_length(spec, spec.sample.timestep_respacing), REPAINT_STEPS)
    diffusion = build_diffusion(spec, images.device, str(count))
    denoise, jump = denoiser(spec, network, diffusion, labels, guide), max(1, count // JUMPS)
    levels, each = list(repaint_levels(count, jump, PASSES)), _evaluations(spec, diffusion)
    evaluations = sum(int(each[after]) for before, after in pairwise(levels) if after < before)
    noise = randn(images)
    moves = repaint(denoise, noise, images, anew, randn, jump=jump, passes=PASSES)
    return Walk(len(levels) - 1, evaluations, noise, _counted(moves, len(levels) - 1))


def _ddim(spec: DiffusionSpec, steps: int | None) -> DiffusionSpec:
    """`spec` with the deterministic chain: even in log-SNR, so that steps differ little and rounds converge at all of them."""
    count = steps or min(chain_length(spec, spec.sample.timestep_respacing), DDIM_STEPS)
    return with_changes(spec, (("sampler", "ddim"), ("ddim_eta", 0.0), ("timestep_respacing", f"logsnr{count}")))


def _evaluations(spec: DiffusionSpec, diffusion: GaussianDiffusion) -> np.ndarray:
    """How many networks, or guides, are evaluated for one image at each step of the chain, [K]."""
    return 1 + (strengths(spec.sample.guidance, diffusion.coefficients.alphas_cumprod) != 0)


def _counted(moves: Iterable[Tensor], count: int) -> Iterator[Generated]:
    for number, x in enumerate(moves, start=1):
        yield Generated(count - number, x, {})
