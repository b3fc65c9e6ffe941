import pytest
import torch

from diffusion.gaussian import GaussianDiffusion
from diffusion.respacing import space_timesteps
from diffusion.samplers import ancestral, ddim, ddim_encode, final
from diffusion.schedules import betas_of


def _cosine(respacing: str = "", variance: str = "learned_range") -> GaussianDiffusion:
    timesteps = space_timesteps(4000, respacing) if respacing else None
    return GaussianDiffusion(betas_of("cosine", 4000), variance=variance, rescale_timesteps=True, timesteps=timesteps)


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def test_respaced_chains_of_the_unet_agree_with_golden(golden):
    expected, network = golden.tensors("chains_unet_uncond32"), golden.unet("unet_uncond32")
    noise = iter(expected["noise"])
    sample = final(ancestral(_cosine("25"), network, expected["x_T"], lambda x: next(noise)))
    assert relative_error(sample, expected["ancestral25"]) < 1e-5
    sample = final(ddim(_cosine("ddim25"), network, expected["x_T"], lambda x: pytest.fail("eta 0 draws no noise")))
    assert relative_error(sample, expected["ddim25_eta0"]) < 1e-5


def test_full_chain_of_4000_steps_agrees_with_golden(golden):
    expected = golden.tensors("chain4000_standin")
    steps = ancestral(_cosine(), golden.standin(True), expected["x_T"], lambda x: expected["noise_every_step"])
    torch.testing.assert_close(final(steps), expected["sample"], rtol=1e-5, atol=1e-5)


def test_progressive_outputs_walk_from_noise_to_the_sample(golden):
    x_T = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = list(ancestral(_cosine("10"), golden.standin(True), x_T, lambda x: torch.zeros_like(x)))
    assert [step.t for step in steps] == list(range(9, -1, -1))
    assert all(step.pred_xstart.abs().max() <= 1 for step in steps)
    torch.testing.assert_close(steps[-1].x, steps[-1].pred_xstart)  # at t = 0 the mean is the predicted image


@pytest.mark.parametrize("sampler, options", [(ancestral, {}), (ddim, {}), (ddim, {"eta": 0.5})])
@pytest.mark.parametrize("first_step", [8, 4, 0])
def test_a_walk_begun_in_the_middle_ends_as_the_whole_one(golden, sampler, options, first_step):
    noise = {}
    def randn(x):
        return next(noise["rest"])
    draws = torch.randn(9, 2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    network, x_T = golden.standin(True), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    noise["rest"] = iter(draws)
    whole = {step.t: step for step in sampler(_cosine("10"), network, x_T, randn, **options)}
    noise["rest"] = iter(draws[9 - first_step:])
    rest = list(sampler(_cosine("10"), network, whole[first_step + 1].x, randn, first_step=first_step, **options))
    assert [step.t for step in rest] == list(range(first_step, -1, -1))
    assert all(torch.equal(step.x, whole[step.t].x) for step in rest)


def test_ddim_with_eta_one_has_the_ancestral_variance(golden):
    """With eta 1 and the posterior's variance both samplers draw from the same distribution (DDIM, section 4.1)."""
    x_T = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    def chain(sampler, **options):
        generator = torch.Generator().manual_seed(1)
        return final(sampler(_cosine("20", "fixed_small"), golden.standin(False), x_T,
                             lambda x: torch.randn(x.shape, generator=generator), **options))
    torch.testing.assert_close(chain(ddim, eta=1.0), chain(ancestral), rtol=1e-3, atol=1e-4)


def test_encoding_and_decoding_return_the_image():
    """DDIM is an ODE: with a network that knows the one image behind x_t, encoding then sampling gives it back."""
    image = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    diffusion = GaussianDiffusion(betas_of("linear", 1000), predict="x_start", variance="fixed_small")
    latent = final(ddim_encode(diffusion, lambda x, t: image, image + 0.05))
    assert latent.std() > 0
    decoded = final(ddim(diffusion, lambda x, t: image, latent, torch.randn_like))
    torch.testing.assert_close(decoded, image, rtol=0, atol=1e-3)


def test_encoding_inverts_sampling_for_a_smooth_network():
    diffusion = GaussianDiffusion(betas_of("linear", 1000), variance="fixed_small")
    network = lambda x, t: 0.5 * x
    x_start = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1)) - 0.5
    latent = final(ddim_encode(diffusion, network, x_start, clip_denoised=False))
    decoded = final(ddim(diffusion, network, latent, torch.randn_like, clip_denoised=False))
    assert relative_error(decoded, x_start) < 0.05
    assert relative_error(latent, x_start) > 0.5


def test_labels_reach_the_network():
    seen = []
    def network(x, t, y):
        seen.append(y.tolist())
        return torch.cat([x, x], dim=1)
    final(ancestral(_cosine("3"), network, torch.zeros(2, 1, 4, 4), torch.zeros_like, model_kwargs={"y": torch.tensor([3, 4])}))
    assert seen == [[3, 4]] * 3


def test_a_walk_without_steps_is_an_error():
    with pytest.raises(ValueError, match="no end"):
        final(iter(()))
