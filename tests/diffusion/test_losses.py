import numpy as np
import pytest
import torch

from diffusion.gaussian import GaussianDiffusion
from diffusion.losses import bits_per_dim, discretized_gaussian_log_likelihood, normal_kl, training_losses
from diffusion.respacing import space_timesteps
from diffusion.schedules import betas_of


def _loss_name(case: dict) -> str:
    if case["use_kl"]:
        return "vlb"
    if not case["learn_sigma"]:
        return "simple"
    return "hybrid" if case["rescale_learned_sigmas"] else "hybrid_unscaled"


def test_losses_agree_with_golden_in_every_combination(golden):
    expected = golden.tensors("losses_cosine4000")
    for case in golden.facts("losses_cosine4000"):
        variance = "learned_range" if case["learn_sigma"] else "fixed_small" if case["sigma_small"] else "fixed_large"
        diffusion = GaussianDiffusion(betas_of(case["noise_schedule"], case["diffusion_steps"]), variance=variance,
                                      predict="x_start" if case["predict_xstart"] else "epsilon",
                                      rescale_timesteps=case["rescale_timesteps"])
        terms = training_losses(diffusion, golden.standin(case["learn_sigma"]), expected["x_start"], expected["t"],
                                expected["noise"], _loss_name(case))
        assert set(terms) == set(case["terms"])
        # A term of the bound is a difference of numbers near 1, so exact to one float32 eps; vlb has it times 4000.
        atol = 1.2e-7 * 4000 if case["use_kl"] else 1e-6
        for term, value in terms.items():
            torch.testing.assert_close(value, expected[f"{case['case']}_{term}"], rtol=1e-5, atol=atol,
                                       msg=lambda text, what=f"case {case}, {term}": f"{what}: {text}")


def test_unscaled_vlb_is_one_term(golden):
    arrays = golden.tensors("losses_cosine4000")
    diffusion = GaussianDiffusion(betas_of("cosine", 4000), variance="learned_range")
    one, all_ = (training_losses(diffusion, golden.standin(True), arrays["x_start"], arrays["t"], arrays["noise"], loss)["loss"]
                 for loss in ("vlb_unscaled", "vlb"))
    torch.testing.assert_close(one * 4000, all_)


def test_hybrid_trains_the_mean_by_mse_alone_and_the_variance_by_the_bound_alone():
    torch.manual_seed(0)
    diffusion = GaussianDiffusion(betas_of("cosine", 100), variance="learned_range")
    x_start, noise, t = torch.rand(2, 1, 4, 4), torch.randn(2, 1, 4, 4), torch.tensor([0, 50])
    output = torch.randn(2, 2, 4, 4, requires_grad=True)

    def gradient(loss):
        terms = training_losses(diffusion, lambda x, time: output, x_start, t, noise, loss)
        return torch.autograd.grad(terms["loss"].sum(), output)[0], terms

    hybrid, terms = gradient("hybrid")
    assert hybrid[:, 1:].abs().sum() > 0
    mse_gradient = 2 * (output - torch.cat([noise, noise], 1))[:, :1] / 16
    torch.testing.assert_close(hybrid[:, :1], mse_gradient)
    bound, _ = gradient("vlb_unscaled")
    torch.testing.assert_close(hybrid[:, 1:], bound[:, 1:] * 100 / 1000)
    torch.testing.assert_close(terms["loss"], terms["mse"] + terms["vb"])


def test_bits_per_dim_agrees_with_golden(golden):
    expected = golden.tensors("bpd_standin_cosine100")
    diffusion = GaussianDiffusion(betas_of("cosine", 100), variance="learned_range", rescale_timesteps=True)
    noise = iter(expected["noise"])
    bpd = bits_per_dim(diffusion, golden.standin(True), expected["x_start"], lambda x: next(noise))
    for name in ("total", "prior", "vb", "xstart_mse", "mse"):
        ours, theirs = getattr(bpd, name), expected[f"{name}_bpd" if name in ("total", "prior") else name]
        assert ours.shape == theirs.shape
        if name in ("vb", "xstart_mse", "mse"):  # recorded from the last step down
            theirs = theirs.flip(1)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_discretised_likelihoods_sum_to_one_over_the_grey_levels():
    levels = torch.arange(256) / 127.5 - 1
    for mean, log_scale in ((0.0, -3.0), (0.9, -1.0), (-1.2, 0.5)):
        total = discretized_gaussian_log_likelihood(levels, torch.tensor(mean), torch.tensor(log_scale)).exp().sum()
        assert total.item() == pytest.approx(1, abs=1e-4)


def test_kl_of_normals_against_the_closed_form():
    kl = normal_kl(torch.tensor(1.0), torch.tensor(np.log(4.0)), torch.tensor(0.0), torch.tensor(0.0))
    assert kl.item() == pytest.approx(0.5 * (4 + 1 - 1 - np.log(4)), rel=1e-6)
    assert normal_kl(torch.tensor(2.0), torch.tensor(1.0), torch.tensor(2.0), torch.tensor(1.0)).item() == 0


def test_a_respaced_bound_has_one_term_per_step_kept(golden):
    arrays = golden.tensors("bpd_standin_cosine100")
    diffusion = GaussianDiffusion(betas_of("cosine", 4000), variance="learned_range",
                                  timesteps=space_timesteps(4000, "10", "cosine"))
    bpd = bits_per_dim(diffusion, golden.standin(True), arrays["x_start"], torch.randn_like)
    assert bpd.vb.shape == (6, 10)
    torch.testing.assert_close(bpd.total, bpd.vb.sum(1) + bpd.prior)
