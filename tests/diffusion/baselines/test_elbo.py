"""The evidence lower bound against what is known in closed form."""

import math

import pytest
import torch

from diffusion.baselines import elbo
from diffusion.baselines.decoders import DECODERS
from diffusion.losses import discretized_gaussian_log_likelihood

LEVELS = torch.arange(256) / 127.5 - 1


def probabilistic_pca(seed: int = 0):
    """A linear-Gaussian model (Tipping & Bishop 1999): x = W z + mu + sigma e, with columns of W that are orthogonal, so that the
    exact posterior of the 3 latents given 8 values is N(m, diag(s^2)). All in double precision."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(8, 3, generator=generator, dtype=torch.float64))
    weight = basis * torch.tensor([2.0, 1.0, 0.3], dtype=torch.float64)
    mu, sigma = torch.randn(8, generator=generator, dtype=torch.float64), 0.4
    x = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    precision = weight.T @ weight + sigma ** 2 * torch.eye(3, dtype=torch.float64)
    mean = (x - mu) @ weight / precision.diagonal()
    variance = (sigma ** 2 / precision.diagonal()).expand_as(mean)
    marginal = torch.distributions.MultivariateNormal(mu, weight @ weight.T + sigma ** 2 * torch.eye(8, dtype=torch.float64))
    return weight, mu, sigma, x, mean, variance, marginal.log_prob(x)


def negative_elbo(weight, mu, sigma, x, mean, variance):
    """The bound in bits/dim [N], its mean over z exact: log p(x given z) is quadratic, so the mean over the 6 points at
    sqrt(3) deviations along each axis is that over the whole normal."""
    parts = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            noise = torch.zeros_like(mean)
            noise[:, axis] = sign * math.sqrt(3)
            z = elbo.reparameterised(mean, variance.log(), noise)
            decoded = (z @ weight.T + mu)[:, :, None, None]
            log_scale = torch.full_like(decoded, math.log(sigma))
            likelihood = elbo.log_likelihood("gaussian", x[:, :, None, None], decoded, log_scale)
            parts.append(torch.stack(elbo.elbo_parts(likelihood, elbo.prior_kl(mean, variance.log()))))
    return torch.stack(parts).mean(dim=0).sum(dim=0)


def test_at_the_exact_posterior_the_bound_is_the_likelihood_of_probabilistic_pca():
    weight, mu, sigma, x, mean, variance, log_p = probabilistic_pca()
    expected = -log_p / (8 * math.log(2))
    torch.testing.assert_close(negative_elbo(weight, mu, sigma, x, mean, variance), expected, rtol=1e-12, atol=0)
    for shift, factor in ((0.1, 1.0), (0.0, 1.5), (0.0, 0.7)):  # any other posterior: the bound is larger by its divergence
        loose = negative_elbo(weight, mu, sigma, x, mean + shift, variance * factor)
        gap = torch.distributions.kl_divergence(torch.distributions.Normal(mean + shift, (variance * factor).sqrt()),
                                                torch.distributions.Normal(mean, variance.sqrt())).sum(dim=1) / (8 * math.log(2))
        torch.testing.assert_close(loose - expected, gap, rtol=1e-9, atol=0)


@pytest.mark.parametrize("log_scale", [-6.0, -4.0, -2.0, 0.0, 3.0])
@pytest.mark.parametrize("mean", [-3.0, -1.0, -0.2001, 0.0, 0.9, 1.5])
def test_the_discretised_normal_sums_to_one_over_256_values(mean, log_scale):
    log_p = elbo.discretized_log_probability(LEVELS, torch.full((256,), mean), torch.full((256,), log_scale))
    assert log_p.isfinite().all() and (log_p <= 1e-6).all()
    assert log_p.double().exp().sum().item() == pytest.approx(1, abs=2e-4 if log_scale > 2 else 2e-5)


def test_the_discretised_normal_is_exact_in_the_tails_where_the_published_one_ends():
    x, scale = LEVELS[[3, 100, 127, 140, 252]], torch.tensor(-3.0)
    for mean in (-0.9, 0.0, 0.98):
        ours = elbo.discretized_log_probability(x, torch.full((5,), mean), scale.expand(5))
        inverse = math.exp(3.0)
        edges = [torch.special.log_ndtr(torch.sign(mean - x.double()) * (x.double() - mean + side / 255) * inverse)
                 for side in (-1, 1)]
        exact = torch.maximum(*edges) + torch.log1p(-torch.exp(-(edges[0] - edges[1]).abs()))
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4)
    near = elbo.discretized_log_probability(LEVELS, torch.full((256,), 0.1), torch.full((256,), -1.0)).exp()
    published = discretized_gaussian_log_likelihood(LEVELS, torch.full((256,), 0.1), torch.full((256,), -1.0)).exp()
    torch.testing.assert_close(near, published, rtol=0, atol=4e-4)

    mean = torch.full((256,), -0.5, requires_grad=True)  # 30 deviations off: the published one has no gradient there
    elbo.discretized_log_probability(LEVELS, mean, torch.full((256,), -3.0)).sum().backward()
    assert mean.grad.isfinite().all() and (mean.grad[80:255] > 0).all()


def test_a_wide_scale_has_finite_gradients():
    raw = torch.tensor([-100.0, -6.0, 0.0, 30.0], requires_grad=True)
    log_scale = elbo.bounded_log_scale(raw)
    assert (log_scale >= elbo.LOWEST_LOG_SCALE).all() and log_scale[2].item() == pytest.approx(0, abs=3e-3)
    elbo.discretized_log_probability(torch.zeros(4), torch.tensor(0.3), log_scale).sum().backward()
    assert raw.grad.isfinite().all()


def test_the_divergence_from_the_prior_is_torchs():
    mean, log_variance = torch.randn(4, 3), torch.randn(4, 3)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0.0, 1.0))
    torch.testing.assert_close(elbo.prior_kl(mean, log_variance), expected)


def test_the_parts_are_sums_divided_by_the_number_of_values():
    reconstruction, kl = elbo.elbo_parts(torch.full((2, 3, 4, 4), -math.log(4.0)), torch.full((2, 6), math.log(2.0)))
    assert reconstruction.tolist() == pytest.approx([2, 2]) and kl.tolist() == pytest.approx([6 / 48] * 2)
    assert elbo.active_latents(torch.tensor([[0.5, 0.0099, 0.02], [0, 0, 0]])).tolist() == [2, 0]


def test_the_weight_of_the_divergence_grows_evenly_to_one():
    assert [elbo.kl_weight(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert elbo.kl_weight(0, 0) == 1


def test_only_known_decoders_have_a_likelihood():
    with pytest.raises(ValueError, match="gaussian"):
        elbo.log_likelihood("laplace", *torch.zeros(3, 1, 1, 1, 1))
    assert [decoder.discrete for decoder in DECODERS.values()] == [True, False]
