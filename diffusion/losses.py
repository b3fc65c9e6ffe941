"""Training objectives and the variational bound, in bits per dimension.

Ho et al. 2020 (DDPM), Nichol & Dhariwal 2021 (IDDPM).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffusion.gaussian import GaussianDiffusion, Network, Prediction

Loss = Literal["simple", "hybrid", "vlb", "hybrid_unscaled", "vlb_unscaled"]


def mean_flat(values: Tensor) -> Tensor:
    """Mean over all but the first dimension: [N, ...] -> [N]."""
    return values.flatten(1).mean(dim=1)


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N1 || N2) of elementwise normal distributions, in nats; arguments broadcast."""
    return 0.5 * (-1.0 + log_variance2 - log_variance1 + torch.exp(log_variance1 - log_variance2)
                  + (mean1 - mean2) ** 2 * torch.exp(-log_variance2))


def _standard_normal_cdf(x: Tensor) -> Tensor:
    # Page's tanh approximation, as published bits/dim were computed with it; off by up to 2e-4 from erf.
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x ** 3)))


def discretized_gaussian_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log p in nats of 8-bit images `x`, scaled to [-1, 1], under a normal integrated over each grey level's bin.

    The outermost bins reach to infinity (DDPM eq. 13). Shapes as `x`.
    """
    centred, inverse_scale = x - mean, torch.exp(-log_scale)
    upper = _standard_normal_cdf(inverse_scale * (centred + 1 / 255))
    lower = _standard_normal_cdf(inverse_scale * (centred - 1 / 255))
    probability = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return probability.clamp(min=1e-12).log()


def vlb_term(diffusion: GaussianDiffusion, prediction: Prediction, x_start: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """One term of the bound in bits/dim, [N]: L_{t-1} as a KL, or the decoder's L_0 where t is 0 (IDDPM eq. 4-6)."""
    true_mean, true_log_variance = diffusion.q_posterior(x_start, x_t, t)
    kl = mean_flat(normal_kl(true_mean, true_log_variance, prediction.mean, prediction.log_variance))
    nll = -mean_flat(discretized_gaussian_log_likelihood(x_start, prediction.mean, 0.5 * prediction.log_variance))
    return torch.where(t == 0, nll, kl) / math.log(2.0)


def training_losses(diffusion: GaussianDiffusion, network: Network, x_start: Tensor, t: Tensor, noise: Tensor, loss: Loss,
                    model_kwargs: dict | None = None) -> dict[str, Tensor]:
    """The objective at steps `t` with the given noise, each value [N]: `loss`, and `mse` and `vb` where it has them.

    simple            mse of what the network predicts (DDPM eq. 14)
    hybrid            simple + lambda * vlb with lambda = 0.001 on the sum of the T terms (IDDPM eq. 16)
    vlb               the bound alone: one term times their number T, an unbiased estimate of the sum
    hybrid_unscaled   simple + one term of the bound, as guided-diffusion has it
    vlb_unscaled      one term of the bound
    """
    x_t = diffusion.q_sample(x_start, t, noise)
    output, v = diffusion.evaluate(network, x_t, t, model_kwargs)

    if loss in ("vlb", "vlb_unscaled"):
        prediction = diffusion.prediction(output, v, x_t, t, clip_denoised=False)
        term = vlb_term(diffusion, prediction, x_start, x_t, t)
        return {"loss": term * diffusion.num_timesteps if loss == "vlb" else term}

    mse = mean_flat((diffusion.target(x_start, noise, t) - output) ** 2)
    if loss == "simple":
        return {"loss": mse, "mse": mse}

    # The bound trains the variance only: its mean is held fixed (IDDPM, section 3.1).
    prediction = diffusion.prediction(output.detach(), v, x_t, t, clip_denoised=False)
    vb = vlb_term(diffusion, prediction, x_start, x_t, t)
    if loss == "hybrid":
        vb = vb * (diffusion.num_timesteps / 1000.0)  # one random term stands for T of them: T * lambda
    return {"loss": mse + vb, "mse": mse, "vb": vb}


@dataclass(frozen=True)
class BitsPerDim:
    """The bound of each example, in bits/dim; column t of the [N, K] terms belongs to chain step t."""

    total: Tensor
    """[N]: prior + the sum of vb over t"""
    prior: Tensor
    """[N]: KL of q(x_T | x_start) from the standard normal"""
    vb: Tensor
    """[N, K]"""
    mse: Tensor
    """[N, K]: of the noise that the predicted x_start implies"""
    xstart_mse: Tensor
    """[N, K]"""


def prior_bits_per_dim(diffusion: GaussianDiffusion, x_start: Tensor) -> Tensor:
    """KL(q(x_T | x_start) || N(0, I)) in bits/dim, [N] (IDDPM eq. 6)."""
    alpha_bar = float(diffusion.coefficients.alphas_cumprod[-1])
    mean = math.sqrt(alpha_bar) * x_start  # DDPM eq. 4
    log_variance = torch.full((1, 1, 1, 1), math.log(1 - alpha_bar), device=x_start.device)
    zero = torch.zeros((), device=x_start.device)
    return mean_flat(normal_kl(mean, log_variance, zero, zero)) / math.log(2.0)


@torch.no_grad()
def bits_per_dim(diffusion: GaussianDiffusion, network: Network, x_start: Tensor, randn: Callable[[Tensor], Tensor], *,
                 clip_denoised: bool = True, model_kwargs: dict | None = None,
                 on_step: Callable[[], None] = lambda: None) -> BitsPerDim:
    """The whole bound of 8-bit images `x_start`, every term evaluated once, from the last step down.

    `randn(x)` gives noise like x and is called once a step; `on_step()` after each.
    """
    shape = (len(x_start), diffusion.num_timesteps)
    vb, mse, xstart_mse = (torch.empty(shape, device=x_start.device) for _ in range(3))
    steps = torch.arange(diffusion.num_timesteps, device=x_start.device)
    for step in reversed(range(diffusion.num_timesteps)):
        t = steps[step].expand(len(x_start))
        noise = randn(x_start)
        x_t = diffusion.q_sample(x_start, t, noise)
        prediction = diffusion.p_mean_variance(network, x_t, t, clip_denoised=clip_denoised, model_kwargs=model_kwargs)
        vb[:, step] = vlb_term(diffusion, prediction, x_start, x_t, t)
        xstart_mse[:, step] = mean_flat((prediction.pred_xstart - x_start) ** 2)
        mse[:, step] = mean_flat((diffusion.epsilon(x_t, t, prediction.pred_xstart) - noise) ** 2)
        on_step()
    prior = prior_bits_per_dim(diffusion, x_start)
    return BitsPerDim(vb.sum(dim=1) + prior, prior, vb, mse, xstart_mse)
