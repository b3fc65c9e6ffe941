"""The evidence lower bound (ELBO) of a variational autoencoder, and what it is made of.

Sources: Kingma & Welling 2014 (VAE), Rybkin et al. 2021 (sigma-VAE), Ho et al. 2020 (DDPM, the discretised normal).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion.baselines.decoders import DECODERS
from diffusion.lookup import look_up
from diffusion.losses import normal_kl

LOWEST_LOG_SCALE = -6.0
"""Of a decoder's log sigma. A sigma that falls to 0 on pixels without error makes the bound infinite (Rybkin et al. 2021)."""
BIN = 1 / 255
"""Half the distance of two grey levels in images scaled to [-1, 1]."""
ACTIVE = 0.01
"""A latent that tells less than so many nats of an image is not in use: the decoder ignores it (posterior collapse)."""


def bounded_log_scale(raw: Tensor) -> Tensor:
    """Return log sigma > LOWEST_LOG_SCALE of any number, smoothly, so that a gradient leads away from the bound."""
    return LOWEST_LOG_SCALE + F.softplus(raw - LOWEST_LOG_SCALE)


def reparameterised(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Return z of N(mean, exp(log_variance)) by standard normal `noise`; all of one shape (Kingma & Welling 2014, eq. 4)."""
    return mean + torch.exp(0.5 * log_variance) * noise


def prior_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats of each latent, shaped as `mean` (Kingma & Welling 2014, appendix B)."""
    zero = torch.zeros((), device=mean.device)
    return normal_kl(mean, log_variance, zero, zero)


def gaussian_log_density(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log N(x; mean, exp(log_scale)^2) in nats of each value, shaped as `x`: a density of real numbers, and no probability."""
    return -0.5 * ((x - mean) * torch.exp(-log_scale)) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)


def discretized_log_probability(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log p in nats, shaped as `x`, of 8-bit images `x` scaled to [-1, 1]: a normal, integrated over the bin of each grey level.

    The outermost bins reach to infinity (DDPM eq. 13), so the 256 probabilities sum to 1. Unlike
    `losses.discretized_gaussian_log_likelihood`, which keeps the approximation of published bits/dim, this function is exact in
    the tails and has a gradient there: a decoder starts far from the data, the last step of a diffusion does not.
    """
    inverse = torch.exp(-log_scale)
    # A normal is symmetric: left of the mean the two tails differ by a factor, right of it both are nearly 1.
    side = torch.where(x > mean, -1.0, 1.0)
    centre = side * (x - mean) * inverse
    upper = torch.special.log_ndtr(centre + BIN * inverse)
    # log(e^a - e^b) = a + log(1 - e^(b - a)); the difference is kept from 0, where a sigma is very wide.
    falls = (torch.special.log_ndtr(centre - BIN * inverse) - upper).clamp(max=-1e-7)
    inside = upper + torch.log(-torch.expm1(falls))
    distance = (x - mean) * inverse
    lowest, highest = torch.special.log_ndtr(distance + BIN * inverse), torch.special.log_ndtr(BIN * inverse - distance)
    return torch.where(x < -0.999, lowest, torch.where(x > 0.999, highest, inside))


def log_likelihood(decoder: str, x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log p(x given z) in nats of each value, shaped as `x`, by the decoder of this name in DECODERS; else ValueError."""
    discrete = look_up(DECODERS, decoder, "decoder").discrete
    return (discretized_log_probability if discrete else gaussian_log_density)(x, mean, log_scale)


def elbo_parts(likelihood: Tensor, kl: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two parts of the negative ELBO of each example, [N] each: reconstruction and KL, whose sum bounds -log p(x).

    `likelihood` [N, C, H, W]: log p(x given z) of each value at one z of the posterior; `kl` [N, ...]: of each latent; in nats.
    Both are summed, never averaged, and then divided by C H W log 2: bits/dim where the likelihood is a probability.
    """
    unit = math.log(2.0) * likelihood[0].numel()
    return -likelihood.flatten(1).sum(dim=1) / unit, kl.flatten(1).sum(dim=1) / unit


def active_latents(kl: Tensor) -> Tensor:
    """Return how many latents of each example tell more than ACTIVE nats of it: float32 [N], for `kl` [N, ...] of each latent."""
    return (kl.flatten(1) > ACTIVE).sum(dim=1).float()


def kl_weight(step: int, warmup: int) -> float:
    """Return the weight of the KL part in training step `step` (from 0): it grows evenly to 1 at step `warmup` - 1, so that the
    latents learn to tell something before it costs (Sønderby et al. 2016)."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0
