import numpy as np
import pytest
import torch

from diffusion.gaussian import GaussianDiffusion
from diffusion.guidance.intervals import sigma_of, strength
from diffusion.guidance.networks import Autoguidance, Classifier, ClassifierFree
from diffusion.networks.half_unet import HalfUNet
from diffusion.networks.unet import UNet
from diffusion.respacing import space_timesteps
from diffusion.samplers.ancestral import ancestral
from diffusion.samplers.ddim import ddim
from diffusion.samplers.denoiser import Denoiser
from diffusion.schedules import betas_of

SAMPLERS = {"ancestral": ancestral, "ddim": ddim}
CFG_CASES = [f"{schedule}_{sampler}_{scale}" for schedule in ("cosine4000", "linear1000") for sampler in SAMPLERS
             for scale in ("1.5", "3")]
GUIDED_CASES = [f"{network}_{schedule}_{sampler}_{scale}" for network in ("cond", "uncond", "standin")
                for schedule in ("cosine4000", "linear1000") for sampler in SAMPLERS for scale in ("1", "4")]


def chain(case: dict) -> GaussianDiffusion:
    steps = case["diffusion_steps"]
    return GaussianDiffusion(betas_of(case["noise_schedule"], steps), variance="learned_range",
                             rescale_timesteps=case["rescale_timesteps"],
                             timesteps=space_timesteps(steps, case["timestep_respacing"], case["noise_schedule"]))


def assert_agrees(denoise: Denoiser, case: dict, expected: dict, name: str, kept: list[int]) -> None:
    noise = iter(expected["noise"])
    steps = list(SAMPLERS[case["sampler"]](denoise, {"x": expected["x_T"]}, lambda x: next(noise)))
    for ours, theirs in zip([steps[number].x for number in kept], expected[name], strict=True):
        assert ((ours - theirs).norm() / theirs.norm()).item() < 2e-5


def unet(golden, facts: dict, null_class: bool = False) -> UNet:
    network = UNet(**golden.adm_settings(facts), null_class=null_class)
    network.load_state_dict(golden.formula_weights(facts["state_dict"]))
    return network.eval()


# Classifier-free guidance ---------------------------------------------------------------------------------------------

@pytest.fixture
def with_null_class(golden):
    facts = golden.facts("cfg_chains")
    return unet(golden, {**facts["unet"], "num_classes": facts["classes"]}, null_class=True)


@pytest.mark.parametrize("name", CFG_CASES)
def test_classifier_free_chains_agree_with_golden(golden, with_null_class, name):
    facts, expected = golden.facts("cfg_chains"), golden.tensors("cfg_chains")
    case = facts["cases"][name]
    diffusion = chain(case)
    everywhere = strength(diffusion.coefficients.alphas_cumprod, case["guidance_scale"] - 1)
    guided = ClassifierFree(with_null_class, facts["null_label"], everywhere)
    assert_agrees(Denoiser(diffusion, guided, model_kwargs={"y": expected["y"]}), case, expected, name, facts["steps"])


def test_the_null_class_is_the_last_row(golden, with_null_class):
    facts, expected = golden.facts("cfg_chains"), golden.tensors("cfg_chains")
    t, null = torch.full((2,), facts["single_t"]), torch.full((2,), facts["null_label"])
    with torch.no_grad():
        for y, name in ((expected["y"], "single_conditional"), (null, "single_unconditional")):
            torch.testing.assert_close(with_null_class(expected["x_T"], t, y), expected[name], rtol=1e-5, atol=1e-5)


class Counted:
    """Something to count the calls of: a linear network that depends on y, and on the examples' number in the batch nowhere."""

    def __init__(self, slope: float = 0.5):
        self.slope, self.batches = slope, []

    def __call__(self, x, t, y=None):
        self.batches.append(len(x))
        shift = 0 if y is None else 0.1 * y.view(-1, 1, 1, 1)
        return torch.cat([self.slope * x + shift, 0.3 * x + shift], dim=1)


@pytest.fixture
def diffusion() -> GaussianDiffusion:
    return GaussianDiffusion(betas_of("cosine", 100), timesteps=list(range(0, 100, 10)), variance="learned_range")


@pytest.fixture
def x_T() -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_a_conditional_and_an_unconditional_half_are_one_batch_and_the_variance_is_conditional(diffusion, x_T):
    network, y = Counted(), torch.tensor([1, 2])
    denoise = Denoiser(diffusion, ClassifierFree(network, 10, np.full(10, 0.5)), model_kwargs={"y": y}, clip_denoised=False)
    steps = list(ancestral(denoise, {"x": x_T}, torch.zeros_like))
    assert network.batches == [4] * len(steps)
    out = denoise.network.at(9)(x_T, torch.tensor([9]))
    with_y, without = Counted()(x_T, None, y), Counted()(x_T, None, torch.tensor([10, 10]))
    torch.testing.assert_close(out[:, :3], without[:, :3] + 1.5 * (with_y - without)[:, :3])
    assert torch.equal(out[:, 3:], with_y[:, 3:])


def test_guidance_works_in_the_interval_of_sigma_and_costs_nothing_outside(diffusion, x_T):
    sigma = sigma_of(diffusion.coefficients.alphas_cumprod)
    inside = strength(diffusion.coefficients.alphas_cumprod, 0.5, [sigma[3], sigma[6]])
    assert inside.tolist() == [0.0] * 3 + [0.5] * 4 + [0.0] * 3
    assert strength(diffusion.coefficients.alphas_cumprod, 0.5).tolist() == [0.5] * 10
    network, y = Counted(), torch.tensor([1, 2])
    list(ddim(Denoiser(diffusion, ClassifierFree(network, 10, inside), model_kwargs={"y": y}), {"x": x_T}, torch.zeros_like))
    assert network.batches == [2] * 3 + [4] * 4 + [2] * 3


@pytest.mark.parametrize("sampler", [ancestral, ddim])
def test_no_strength_is_no_guidance_to_the_bit(diffusion, x_T, sampler):
    y = torch.tensor([1, 2])
    plain = [step.x for step in sampler(Denoiser(diffusion, Counted(), model_kwargs={"y": y}), {"x": x_T}, torch.ones_like)]
    for guided in (ClassifierFree(Counted(), 10, np.zeros(10)), Autoguidance(Counted(), Counted(0.1), np.zeros(10))):
        steps = list(sampler(Denoiser(diffusion, guided, model_kwargs={"y": y}), {"x": x_T}, torch.ones_like))
        assert all(torch.equal(step.x, x) for step, x in zip(steps, plain, strict=True))


# Autoguidance ---------------------------------------------------------------------------------------------------------

def test_autoguidance_goes_away_from_the_weak_network_and_keeps_its_own_variance(diffusion, x_T):
    good, weak = Counted(0.5), Counted(0.2)
    out = Autoguidance(good, weak, np.full(10, 0.7)).along(diffusion.network_times).at(4)(x_T, torch.tensor([4]))
    theirs, ours = weak(x_T, None), good(x_T, None)
    torch.testing.assert_close(out[:, :3], theirs[:, :3] + 1.7 * (ours - theirs)[:, :3])
    assert torch.equal(out[:, 3:], ours[:, 3:])


def test_a_weak_network_needs_no_variance(diffusion, x_T):
    along = Autoguidance(Counted(), lambda x, t: 0 * x, np.full(10, 1.0)).along(diffusion.network_times)
    out = along.at(4)(x_T, torch.tensor([4]))
    torch.testing.assert_close(out[:, :3], 2 * 0.5 * x_T)


# Classifier guidance --------------------------------------------------------------------------------------------------

def standin_classifier(classes: int):
    def logits(x, t):
        sums = [torch.sin((k + 1) * x).flatten(1).sum(dim=1) for k in range(classes)]
        return torch.stack(sums, dim=1) * torch.cos(t / 700)[:, None] / 4
    return logits


@pytest.mark.parametrize("name", GUIDED_CASES)
def test_classifier_guided_chains_agree_with_golden(golden, name):
    facts, expected = golden.facts("guided_chains"), golden.tensors("guided_chains")
    case, y = facts["cases"][name], expected["y"]
    if case["network"] == "standin":
        network, classifier = golden.standin(True), standin_classifier(facts["classes"])
    else:
        network = unet(golden, facts[f"unet_{case['network']}"])
        classifier = HalfUNet(**golden.half_settings(facts["classifier"]))
        weights = golden.formula_weights(facts["classifier"]["state_dict"])
        for key in ("out.2.c_proj.weight", "out.2.c_proj.bias"):
            weights[key] = weights[key] * facts["classifier"]["last_layer_factor"]
        classifier.load_state_dict(weights)
        classifier.eval()
    diffusion = chain(case)
    guide = Classifier(classifier, y, strength(diffusion.coefficients.alphas_cumprod, case["classifier_scale"]))
    denoise = Denoiser(diffusion, network, guide=guide, model_kwargs={"y": y} if case["network"] == "cond" else {})
    assert_agrees(denoise, case, expected, name, facts["steps"])


def test_the_guided_mean_of_two_gaussian_classes_is_the_closed_form(x_T):
    """x_t of class k is normal around m_k with variance s: log p(1 | x) has the gradient (1 - p) (m_1 - m_0) / s."""
    diffusion = GaussianDiffusion(betas_of("linear", 100), variance="fixed_small")
    means, variance, y = torch.tensor([-1.0, 1.0]), 4.0, torch.tensor([1, 1])

    def classifier(x, t):
        return torch.stack([-(x - mean).square().flatten(1).sum(dim=1) / (2 * variance) for mean in means], dim=1)
    guide = Classifier(classifier, y, strength(diffusion.coefficients.alphas_cumprod, 2.0))
    network = Denoiser(diffusion, lambda x, t: 0.1 * x, guide=guide)
    (guided, *_), (plain, *_) = (ancestral(denoise, {"x": x_T}, torch.zeros_like) for denoise in
                                 (network, Denoiser(diffusion, lambda x, t: 0.1 * x)))
    other = 1 - torch.softmax(classifier(x_T, None), dim=1)[:, 1]
    expected = 2.0 * other.view(-1, 1, 1, 1) * (means[1] - means[0]) / variance * diffusion.coefficients.posterior_variance[99]
    torch.testing.assert_close(guided.x - plain.x, expected.expand_as(x_T), rtol=1e-4, atol=1e-6)


def test_outside_the_interval_no_gradient_is_computed(diffusion, x_T):
    calls = []
    def classifier(x, t):
        calls.append(len(x))
        return standin_classifier(3)(x, t)
    sigma = sigma_of(diffusion.coefficients.alphas_cumprod)
    guide = Classifier(classifier, torch.tensor([0, 1]), strength(diffusion.coefficients.alphas_cumprod, 1.0, [0, sigma[4]]))
    list(ddim(Denoiser(diffusion, Counted(), guide=guide), {"x": x_T}, torch.zeros_like))
    assert len(calls) == 5


@pytest.mark.parametrize("sampler", [ancestral, ddim])
@pytest.mark.parametrize("kind", ["classifier_free", "autoguidance", "classifier"])
def test_recorded_steps_give_the_same_bits(graphs_without_gpu, diffusion, x_T, sampler, kind):
    y, at = torch.tensor([1, 2]), np.array([0.0] * 3 + [0.5] * 4 + [0.0] * 3)

    def denoiser():
        network = {"classifier_free": lambda: ClassifierFree(Counted(), 10, at),
                   "autoguidance": lambda: Autoguidance(Counted(), Counted(0.2), at)}.get(kind, Counted)()
        guide = Classifier(standin_classifier(3), y, at) if kind == "classifier" else None
        return Denoiser(diffusion, network, model_kwargs={"y": y}, guide=guide)
    plain, recorded = (list(sampler(denoiser(), {"x": x_T}, torch.ones_like, cuda_graph=graph)) for graph in (False, True))
    assert all(torch.equal(one.x, other.x) for one, other in zip(plain, recorded, strict=True))
