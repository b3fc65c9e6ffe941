import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion.gaussian import GaussianDiffusion
from diffusion.respacing import space_timesteps
from diffusion.samplers.ancestral import ancestral
from diffusion.samplers.chain import final
from diffusion.samplers.ddim import ddim
from diffusion.samplers.denoiser import Denoiser
from diffusion.samplers.dpmpp_2m import dpmpp_2m
from diffusion.samplers.heun import heun
from diffusion.samplers.table import SAMPLERS, sampler_function
from diffusion.samplers.unipc import unipc
from diffusion.schedules import betas_of


def _cosine(respacing: str = "", variance: str = "learned_range") -> GaussianDiffusion:
    timesteps = space_timesteps(4000, respacing, "cosine") if respacing else None
    return GaussianDiffusion(betas_of("cosine", 4000), variance=variance, rescale_timesteps=True, timesteps=timesteps)


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def test_respaced_chains_of_the_unet_agree_with_golden(golden):
    expected, network = golden.tensors("chains_unet_uncond32"), golden.unet("unet_uncond32")
    noise = iter(expected["noise"])
    sample = final(ancestral(Denoiser(_cosine("25"), network), {"x": expected["x_T"]}, lambda x: next(noise)))
    assert relative_error(sample, expected["ancestral25"]) < 1e-5
    sample = final(ddim(Denoiser(_cosine("ddim25"), network), {"x": expected["x_T"]},
                        lambda x: pytest.fail("eta 0 draws no noise")))
    assert relative_error(sample, expected["ddim25_eta0"]) < 1e-5


def test_full_chain_of_4000_steps_agrees_with_golden(golden):
    expected = golden.tensors("chain4000_standin")
    denoise = Denoiser(_cosine(), golden.standin(True))
    steps = ancestral(denoise, {"x": expected["x_T"]}, lambda x: expected["noise_every_step"])
    torch.testing.assert_close(final(steps), expected["sample"], rtol=1e-5, atol=1e-5)


def plain_ancestral(diffusion, network, x, noise, **options):
    """Algorithm 2 of Ho et al. 2020 on what `p_mean_variance` gives for one step after the other."""
    for step in reversed(range(diffusion.num_timesteps)):
        p = diffusion.p_mean_variance(network, x, torch.full((len(x),), step), **options)
        x = p.mean + (p.log_variance / 2).exp() * noise[step] * (step > 0)
        yield x, p.pred_xstart


def plain_ddim(diffusion, network, x, noise, eta, **options):
    """Equations 12 and 16 of Song et al. 2021 on what `p_mean_variance` gives."""
    c = diffusion.coefficients
    for step in reversed(range(diffusion.num_timesteps)):
        t = torch.full((len(x),), step)
        pred_xstart = diffusion.p_mean_variance(network, x, t, **options).pred_xstart
        now, before = c.alphas_cumprod[step], c.alphas_cumprod_prev[step]
        sigma = eta * ((1 - before) / (1 - now)) ** 0.5 * (1 - now / before) ** 0.5
        x = (before ** 0.5 * pred_xstart + max(1 - before - sigma ** 2, 0) ** 0.5 * diffusion.epsilon(x, t, pred_xstart)
             + sigma * noise[step] * (step > 0))
        yield x, pred_xstart


@pytest.mark.parametrize("predict", ["epsilon", "x_start", "x_prev", "v"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("options", [{}, {"clip_denoised": False}])
@pytest.mark.parametrize("eta", [None, 0.0, 0.7, 1.0])
def test_every_step_is_the_equations(golden, predict, variance, options, eta):
    diffusion = GaussianDiffusion(betas_of("linear", 30), predict=predict, variance=variance, rescale_timesteps=True,
                                  timesteps=[0, 1, 4, 12, 20, 29])
    x_T, *noise = torch.randn(7, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    plain = plain_ancestral if eta is None else plain_ddim
    network, extra = golden.standin(variance.startswith("learned")), {} if eta is None else {"eta": eta}
    expected = list(plain(diffusion, network, x_T, noise, **extra, **options))
    drawn = iter(noise[:0:-1])
    denoise = Denoiser(diffusion, network, **options)
    steps = list((ancestral if eta is None else ddim)(denoise, {"x": x_T}, lambda x: next(drawn), **extra))
    assert len(steps) == len(expected) == 6
    for step, (x, pred_xstart) in zip(steps, expected, strict=True):  # all are looked at only now: none was overwritten since
        torch.testing.assert_close(step.x, x, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(step.pred_xstart, pred_xstart, rtol=1e-4, atol=1e-4)


class Kernels(TorchDispatchMode):
    """The names of what torch is asked to do, views left out."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        if not function.is_view:
            self.names.append(function.overloadpacket.__name__)
        return function(*arguments, **(kwargs or {}))


PREDICTION = ["index_select", "index_select", "mul", "addcmul_", "clamp", "addcmul_"]
"""Time of the network, coefficients, the predicted image, clipping."""


@pytest.mark.parametrize("sampler, expected", [
    (ancestral, [*PREDICTION, "index_select", "addcmul", "exp_", "mul", "addcmul_", "addcmul_"]),
    (ddim, [*PREDICTION, "index_select", "mul", "addcmul_"]),
    (dpmpp_2m, [*PREDICTION, "index_select", "mul", "addcmul_", "addcmul_"]),
    (unipc, [*PREDICTION, "index_select", "mul", "addcmul_", "addcmul_", "addcmul_",
             "index_select", "mul", "addcmul_", "addcmul_", "clone"]),
    (heun, [*PREDICTION, "index_select", "mul", "addcmul_", "sub", *PREDICTION, "index_select", "mul", "addcmul_", "addcmul_"])])
def test_a_step_is_few_kernels_and_neither_copies_nor_waits(sampler, expected):
    output, noise = torch.randn(2, 6, 4, 4), torch.randn(2, 3, 4, 4)
    walk = sampler(Denoiser(_cosine("10"), lambda x, t: output), {"x": torch.randn(2, 3, 4, 4)}, lambda x: noise)
    next(walk)
    with Kernels() as kernels:
        next(walk)
    assert kernels.names == expected


@pytest.mark.slow
@pytest.mark.parametrize("sampler, options", [(ancestral, {}), (ddim, {}), (ddim, {"eta": 0.5})])
@pytest.mark.parametrize("name", ["unet_uncond32", "unet_classcond32"])
def test_a_recorded_step_replayed_is_every_step(golden, graphs_without_gpu, name, sampler, options):
    network = golden.unet(name)
    labels = {"y": torch.tensor([3, 4])} if network.num_classes else {}
    x_T, *draws = torch.randn(6, 2, 3, network.image_size, network.image_size, generator=torch.Generator().manual_seed(0))
    diffusion = _cosine("5", "learned_range" if network.out_channels == 6 else "fixed_large")

    given = x_T.clone()

    def walk(**more):
        noise, denoise = iter(draws), Denoiser(diffusion, network, model_kwargs=labels)
        return list(sampler(denoise, {"x": x_T}, lambda x: next(noise), **options, **more))
    for one, other in zip(walk(), walk(cuda_graph=True), strict=True):  # looked at only now: no replay has overwritten them
        assert one.t == other.t and torch.equal(one.x, other.x) and torch.equal(one.pred_xstart, other.pred_xstart)
    assert torch.equal(x_T, given)  # a replay writes to memory of its own


@pytest.mark.parametrize("name", ["unet_uncond32", "unet_classcond32"])
def test_time_and_class_are_embedded_once_a_walk(golden, name):
    network, times = golden.unet(name), []
    network.time_embed.register_forward_hook(lambda module, arguments, out: times.append(len(out)))
    labels = {"y": torch.tensor([3, 4])} if network.num_classes else {}
    if labels:
        network.label_emb.register_forward_hook(lambda module, arguments, out: times.append(-len(out)))
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(2, 3, network.image_size, network.image_size, generator=generator)
    noise = torch.randn(3, *x_T.shape, generator=generator)
    diffusion = _cosine("3", "learned_range" if network.out_channels == 6 else "fixed_large")
    with torch.no_grad():
        expected = [x for x, _ in plain_ancestral(diffusion, network, x_T, noise, model_kwargs=labels)]
    times.clear()
    drawn = iter(noise.flip(0))
    steps = list(ancestral(Denoiser(diffusion, network, model_kwargs=labels), {"x": x_T}, lambda x: next(drawn)))
    assert times == ([3, -2] if labels else [3])
    for step, x in zip(steps, expected, strict=True):
        assert relative_error(step.x, x) < 1e-5 and not step.x.requires_grad


def test_progressive_outputs_walk_from_noise_to_the_sample(golden):
    x_T = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = list(ancestral(Denoiser(_cosine("10"), golden.standin(True)), {"x": x_T}, lambda x: torch.zeros_like(x)))
    assert [step.t for step in steps] == list(range(9, -1, -1))
    assert all(step.pred_xstart.abs().max() <= 1 for step in steps)
    torch.testing.assert_close(steps[-1].x, steps[-1].pred_xstart)  # at t = 0 the mean is the predicted image


@pytest.mark.parametrize("sampler, options", [*((sampler_function(name), {}) for name in SAMPLERS), (ddim, {"eta": 0.5})])
@pytest.mark.parametrize("first_step", [8, 4, 1, 0])
def test_a_walk_begun_in_the_middle_ends_as_the_whole_one(golden, sampler, options, first_step):
    noise = {}
    def randn(x):
        return next(noise["rest"])
    draws = torch.randn(9, 2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    network, x_T = golden.standin(True), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    noise["rest"] = iter(draws)
    whole = {step.t: step for step in sampler(Denoiser(_cosine("10"), network), {"x": x_T}, randn, **options)}
    noise["rest"] = iter(draws[9 - first_step:])
    rest = list(sampler(Denoiser(_cosine("10"), network), whole[first_step + 1].state, randn, first_step=first_step, **options))
    assert [step.t for step in rest] == list(range(first_step, -1, -1))
    for step in rest:
        assert step.state.keys() == whole[step.t].state.keys()
        assert all(torch.equal(tensor, whole[step.t].state[name]) for name, tensor in step.state.items())


def test_ddim_with_eta_one_has_the_ancestral_variance(golden):
    """With eta 1 and the posterior's variance both samplers draw from the same distribution (DDIM, section 4.1)."""
    x_T = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    def chain(sampler, **options):
        generator = torch.Generator().manual_seed(1)
        return final(sampler(Denoiser(_cosine("20", "fixed_small"), golden.standin(False)), {"x": x_T},
                             lambda x: torch.randn(x.shape, generator=generator), **options))
    torch.testing.assert_close(chain(ddim, eta=1.0), chain(ancestral), rtol=1e-3, atol=1e-4)


def test_labels_reach_the_network():
    seen = []
    def network(x, t, y):
        seen.append(y.tolist())
        return torch.cat([x, x], dim=1)
    x_T, labels = torch.zeros(2, 1, 4, 4), torch.tensor([3, 4])
    final(ancestral(Denoiser(_cosine("3"), network, model_kwargs={"y": labels}), {"x": x_T}, torch.zeros_like))
    assert seen == [[3, 4]] * 3
