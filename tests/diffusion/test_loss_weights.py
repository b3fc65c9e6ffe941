import numpy as np
import pytest
import torch

from diffusion.coefficients import Coefficients
from diffusion.gaussian import GaussianDiffusion
from diffusion.loss_weights import LOSS_WEIGHTS, loss_weights, signal_to_noise
from diffusion.losses import training_losses
from diffusion.parameterisation import PARAMETERISATIONS
from diffusion.schedules import betas_of

SETTINGS = {"none": {}, "min_snr": {"min_snr_gamma": 5.0}, "p2": {"p2_gamma": 1.0, "p2_k": 1.0}}
STEPS = {"linear": 1000, "cosine": 4000}


def weights_of_case(case: dict, diffusion: GaussianDiffusion) -> np.ndarray | None:
    name = case["kind"] if case["kind"] in SETTINGS else "none"
    settings = {"none": {}, "min_snr": {"min_snr_gamma": case.get("gamma")},
                "p2": {"p2_gamma": case.get("gamma"), "p2_k": case.get("k")}}[name]
    return loss_weights(name, diffusion.coefficients, diffusion.parameterisation, **settings)


def test_losses_agree_with_golden(golden):
    expected, cases = golden.tensors("losses_weighted"), golden.facts("losses_weighted")
    assert len(cases) == 36 and {case["predict"] for case in cases.values()} == {"epsilon", "x_start", "v"}
    for name, case in cases.items():
        schedule = case["noise_schedule"]
        t = expected[f"t_{schedule}{case['diffusion_steps']}"]
        diffusion = GaussianDiffusion(betas_of(schedule, case["diffusion_steps"]), predict=case["predict"],
                                      variance="learned_range" if case["learn_sigma"] else "fixed_large",
                                      rescale_timesteps=case["rescale_timesteps"])
        weights = weights_of_case(case, diffusion)
        if weights is not None:
            torch.testing.assert_close(torch.from_numpy(weights)[t], expected[f"{name}_weight"], rtol=1e-9, atol=0)
        perturbed = case["kind"] == "input_perturbation"
        terms = training_losses(
            diffusion, golden.standin(case["learn_sigma"]), expected["x_start"], t, expected["noise"],
            "hybrid" if case["learn_sigma"] else "simple",
            mse_weights=None if weights is None else torch.from_numpy(weights).float(),
            input_noise=expected["noise"] + case["gamma"] * expected["perturbation"] if perturbed else None)
        for term, value in terms.items():
            theirs = expected[f"{name}_{term}"]
            if term == "mse":
                assert (value - theirs).norm() <= 1e-5 * theirs.norm(), (name, term)
            # A term of the bound is a difference of numbers near 1, so exact to one float32 eps, here times steps / 1000.
            torch.testing.assert_close(value, theirs, rtol=1e-5, atol=1e-6, msg=lambda text, what=(name, term): f"{what}: {text}")


@pytest.mark.parametrize("schedule", STEPS)
def test_snr_and_the_target_of_v_agree_with_golden(golden, schedule):
    expected, name = golden.tensors("losses_weighted"), f"{schedule}{STEPS[schedule]}"
    diffusion, t = GaussianDiffusion(betas_of(schedule, STEPS[schedule]), predict="v"), expected[f"t_{name}"]
    snr = torch.from_numpy(signal_to_noise(diffusion.coefficients))
    torch.testing.assert_close(snr[t], expected[f"snr_{name}"], rtol=1e-9, atol=0)
    torch.testing.assert_close(diffusion.target(expected["x_start"], expected["noise"], t), expected[f"v_target_{name}"],
                               rtol=1e-5, atol=1e-6)


def test_weights_on_the_error_of_the_noise_are_those_of_the_papers():
    """Hang et al. 2023: min(snr, gamma) / snr. Choi et al. 2022: 1 / (k + snr)^gamma."""
    c, epsilon = Coefficients.of(betas_of("linear", 100)), PARAMETERISATIONS["epsilon"]
    snr = c.alphas_cumprod / (1 - c.alphas_cumprod)
    np.testing.assert_allclose(loss_weights("min_snr", c, epsilon, min_snr_gamma=2.0), np.minimum(snr, 2) / snr, rtol=1e-9)
    np.testing.assert_allclose(loss_weights("p2", c, epsilon, p2_gamma=0.5, p2_k=3.0), (3 + snr) ** -0.5, rtol=1e-9)


@pytest.mark.parametrize("schedule", STEPS)
@pytest.mark.parametrize("name", [name for name in LOSS_WEIGHTS if name != "none"])
def test_the_gradient_with_respect_to_x_start_is_the_same_whatever_is_predicted(name, schedule):
    c = Coefficients.of(betas_of(schedule, 100))
    t = torch.tensor([0, 3, 30, 60, 98])
    generator = torch.Generator().manual_seed(0)
    x_start, noise, guess = (torch.randn(5, 1, 4, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    gradients, plain = [], []
    for predict in ("epsilon", "x_start", "v"):
        parameterisation = PARAMETERISATIONS[predict]
        (a, b), (d, e) = parameterisation.target(c), parameterisation.x_start(c)
        a, b, d, e = (torch.from_numpy(values)[t].view(-1, 1, 1, 1) for values in (a, b, d, e))
        alpha_bar = torch.from_numpy(c.alphas_cumprod)[t].view(-1, 1, 1, 1)
        x_t = alpha_bar.sqrt() * x_start + (1 - alpha_bar).sqrt() * noise
        guessed = guess.clone().requires_grad_()  # the network's x_start, from which its output follows
        mse = ((a * x_start + b * noise - (guessed - d * x_t) / e) ** 2).flatten(1).mean(dim=1)
        weights = torch.from_numpy(loss_weights(name, c, parameterisation, **SETTINGS[name]))
        gradients.append(torch.autograd.grad((mse * weights[t]).sum(), guessed, retain_graph=True)[0])
        plain.append(torch.autograd.grad(mse.sum(), guessed)[0])
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-6, atol=0)
    assert not torch.allclose(plain[0], plain[1], rtol=0.1)  # without weights what is predicted matters


def test_the_bound_is_never_weighted_and_no_weight_changes_no_bit(golden):
    expected = golden.tensors("losses_weighted")
    diffusion = GaussianDiffusion(betas_of("linear", 1000), variance="learned_range")
    inputs = diffusion, golden.standin(True), expected["x_start"], expected["t_linear1000"], expected["noise"], "hybrid"
    plain, weighted = training_losses(*inputs), training_losses(*inputs, mse_weights=torch.full((1000,), 0.5))
    assert torch.equal(weighted["vb"], plain["vb"]) and torch.equal(weighted["mse"], plain["mse"] * 0.5)
    assert loss_weights("none", diffusion.coefficients, diffusion.parameterisation) is None


def test_an_unknown_name_is_refused_with_the_known_ones():
    c = Coefficients.of(betas_of("linear", 100))
    with pytest.raises(ValueError, match="unknown loss_weight 'snr'; there are none, min_snr and p2"):
        loss_weights("snr", c, PARAMETERISATIONS["epsilon"])
