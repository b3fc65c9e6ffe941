"""Training losses (see `objectives` for their names) and the variational bound, in bits per dimension.

Sources: Ho et al. 2020 (DDPM), Nichol & Dhariwal 2021 (IDDPM).
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion.gaussian import GaussianDiffusion, Network, Prediction
from diffusion.lookup import look_up
from diffusion.objectives import LOSSES

TOP = 5
"""A classifier's label should be among so many classes of the largest logits."""


def mean_flat(values: Tensor) -> Tensor:
    """Mean over all but the first dimension: [N, ...] -> [N]."""
    return values.flatten(1).mean(dim=1)


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N1 || N2) in nats of normal distributions, one for each element; arguments broadcast."""
    return 0.5 * (-1.0 + log_variance2 - log_variance1 + torch.exp(log_variance1 - log_variance2)
                  + (mean1 - mean2) ** 2 * torch.exp(-log_variance2))


def _standard_normal_cdf(x: Tensor) -> Tensor:
    # Page's approximation by tanh, off by up to 2e-4, because published bits/dim were computed with it.
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x ** 3)))


def discretized_gaussian_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log p in nats, shaped as `x`, of 8-bit images `x` scaled to [-1, 1]: a normal, integrated over the bin of each grey level.

    The outermost bins reach to infinity (DDPM eq. 13).
    """
    centred, inverse_scale = x - mean, torch.exp(-log_scale)
    upper = _standard_normal_cdf(inverse_scale * (centred + 1 / 255))
    lower = _standard_normal_cdf(inverse_scale * (centred - 1 / 255))
    probability = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return probability.clamp(min=1e-12).log()


def vlb_term(diffusion: GaussianDiffusion, prediction: Prediction, x_start: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """One term of the bound in bits/dim, [N]: a KL divergence L_{t-1}, or the decoder's L_0 where t is 0 (IDDPM eq. 4-6)."""
    true_mean, true_log_variance = diffusion.q_posterior(x_start, x_t, t)
    kl = mean_flat(normal_kl(true_mean, true_log_variance, prediction.mean, prediction.log_variance))
    nll = -mean_flat(discretized_gaussian_log_likelihood(x_start, prediction.mean, 0.5 * prediction.log_variance))
    return torch.where(t == 0, nll, kl) / math.log(2.0)


def training_losses(diffusion: GaussianDiffusion, network: Network, x_start: Tensor, t: Tensor, noise: Tensor, loss: str,
                    model_kwargs: dict | None = None, *, mse_weights: Tensor | None = None,
                    input_noise: Tensor | None = None) -> dict[str, Tensor]:
    """The values named by `LOSSES[loss].terms`, [N] each, of images `x_start` [N, C, H, W] with `noise` at steps `t` [N].

    `loss` is the value to minimise. `mse_weights` [K] multiply the mse at each step, not the bound (see `loss_weights`).
    `input_noise` [N, C, H, W]: the noise that x_t is made with, where that is not `noise`, which the network shall predict
    (Ning et al. 2023, input perturbation). Raises ValueError for a name that is not in LOSSES.
    """
    objective = look_up(LOSSES, loss, "loss")
    x_t = diffusion.q_sample(x_start, t, noise if input_noise is None else input_noise)
    output, v = diffusion.evaluate(network, x_t, t, model_kwargs)

    parts = {}
    if objective.mse:
        parts["mse"] = mean_flat((diffusion.target(x_start, noise, t) - output) ** 2)
        if mse_weights is not None:
            parts["mse"] = parts["mse"] * mse_weights[t]
    if objective.bound:
        # Beside an mse the bound trains the variance only: the mean gets no gradient from the bound (IDDPM, section 3.1).
        held = output.detach() if objective.mse else output
        prediction = diffusion.prediction(held, v, x_t, t, clip_denoised=False)
        parts["vb"] = vlb_term(diffusion, prediction, x_start, x_t, t) * objective.bound(diffusion.num_timesteps)
    values = {"loss": reduce(operator.add, parts.values()), **parts}
    return {name: values[name] for name in objective.terms}


@dataclass(frozen=True)
class BitsPerDim:
    """The variational bound of each example. Column t of the [N, K] values belongs to chain step t."""

    total: Tensor
    """[N], bits/dim: prior + the sum of vb over t"""
    prior: Tensor
    """[N], bits/dim: see `prior_bits_per_dim`"""
    vb: Tensor
    """[N, K], bits/dim: see `vlb_term`"""
    mse: Tensor
    """[N, K]: mean squared error of the noise that the predicted image implies"""
    xstart_mse: Tensor
    """[N, K]: mean squared error of the predicted image"""


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
    """All terms of the bound for 8-bit images `x_start` [N, C, H, W] scaled to [-1, 1], from the last step down to 0.

    `randn(x)` draws standard normal noise shaped as x, once for each step; `on_step()` is called after each step.
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


# A classifier of noisy images (Dhariwal & Nichol 2021, section 4)

def classification_terms(classes: int) -> tuple[str, ...]:
    """Return the names of the values of `classification_losses`. Among TOP classes or fewer, the label always is in the top."""
    return ("loss", "accuracy", *([f"accuracy_top{TOP}"] if classes > TOP else []))


def classification_losses(diffusion: GaussianDiffusion, network: Network, x_start: Tensor, t: Tensor, noise: Tensor,
                          labels: Tensor, **model_kwargs: Tensor) -> dict[str, Tensor]:
    """Return the cross entropy `loss` of the network at x_t, in nats, and whether its guess is right: float32 [N] each.

    `network`(x_t, time) -> logits [N, K]; x_start and noise [N, C, H, W], t and labels int64 [N]. `accuracy` is 1 where the
    label has the largest logit, `accuracy_top5` where its logit is among the five largest; else 0.
    """
    x_t = diffusion.q_sample(x_start, t, noise)
    logits = network(x_t, diffusion.network_times[t], **model_kwargs).float()
    values = {"loss": F.cross_entropy(logits, labels, reduction="none"), "accuracy": (logits.argmax(dim=1) == labels).float()}
    if logits.shape[1] > TOP:
        values[f"accuracy_top{TOP}"] = (logits.topk(TOP, dim=1).indices == labels[:, None]).any(dim=1).float()
    return {name: values[name] for name in classification_terms(logits.shape[1])}
