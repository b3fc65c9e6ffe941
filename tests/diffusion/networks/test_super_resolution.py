"""The network that enlarges images: against the numbers of the reference, and along a chain."""

import hashlib

import numpy as np
import pytest
import torch

from diffusion.gaussian import GaussianDiffusion
from diffusion.guidance.networks import ClassifierFree
from diffusion.networks.super_resolution import SuperResolutionUNet, enlarged, noised_low_res, reduced
from diffusion.respacing import space_timesteps
from diffusion.samplers.denoiser import Denoiser
from diffusion.samplers.table import sampler_function
from diffusion.schedules import betas_of


def settings_of(golden, flags: dict) -> dict:
    whole = {"num_head_channels": -1, "num_heads_upsample": -1, "resblock_updown": False, "use_new_attention_order": False,
             "image_size": flags.get("large_size"), **flags}
    return golden.adm_settings(whole)


def agree(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return bool((ours - theirs).norm() <= tolerance * theirs.norm())


@pytest.fixture
def network(golden) -> SuperResolutionUNet:
    facts = golden.facts("super_resolution")
    network = SuperResolutionUNet(**settings_of(golden, facts))
    assert [[key, list(value.shape)] for key, value in network.state_dict().items()] == [
        [key, shape] for key, shape in facts["state_dict"].items()]
    network.load_state_dict(golden.formula_weights(facts["state_dict"]))
    return network.eval()


def test_the_network_and_the_pair_agree_with_golden(golden, network):
    facts, arrays = golden.facts("super_resolution"), golden.tensors("super_resolution")
    assert sum(each.numel() for each in network.parameters()) == facts["parameters"]
    with torch.no_grad():
        out = network(arrays["x"], arrays["t"], arrays["y"], low_res=arrays["low_res"])
    assert agree(out, arrays["out"])
    assert agree(enlarged(arrays["low_res"], 16), arrays["upsampled"])
    assert agree(reduced(arrays["x"].clamp(-1, 1), 8), arrays["area_of_clamped_x"])
    assert not agree(network(arrays["x"], arrays["t"], arrays["y"], low_res=arrays["low_res"].flip(0)), arrays["out"], 1e-2)


@pytest.mark.parametrize("case", ["linear4000_ancestral", "cosine1000_ddim"])
def test_chains_agree_with_golden(golden, network, case):
    facts, arrays = golden.facts("super_resolution")["cases"][case], golden.tensors("super_resolution")
    steps = facts["diffusion_steps"]
    timesteps = space_timesteps(steps, facts["timestep_respacing"], facts["noise_schedule"])
    assert timesteps[::-1] == facts["timesteps"]
    diffusion = GaussianDiffusion(betas_of(facts["noise_schedule"], steps), variance=facts["variance"], timesteps=timesteps,
                                  rescale_timesteps=facts["rescale_timesteps"])
    denoise = Denoiser(diffusion, network, model_kwargs={"y": arrays["y"], "low_res": arrays["low_res"]})
    noise = iter(arrays["noise"])
    own = {"eta": facts["eta"]} if facts["sampler"] == "ddim" else {}
    walked = list(sampler_function(facts["sampler"])(denoise, {"x": arrays["x_T"]}, lambda x: next(noise), **own))
    assert len(walked) == len(arrays[case])
    for step, x in zip(walked, arrays[case], strict=True):
        assert agree(step.x, x), step.t


def test_published_configurations_have_their_keys_shapes_and_parameters(golden):
    published = {name: flags for name, flags in golden.facts("published_configs_adm").items()
                 if flags["network"] == "SuperResModel"}
    assert len(published) == 3
    for name, flags in published.items():
        with torch.device("meta"):
            layout = SuperResolutionUNet(**settings_of(golden, flags)).state_dict()
        assert (len(layout), sum(value.numel() for value in layout.values())) == (flags["keys"], flags["parameters"]), name
        lines = "\n".join(f"{key} {list(value.shape)}" for key, value in layout.items())
        assert hashlib.sha256(lines.encode()).hexdigest() == flags["layout_sha256"], name
        assert layout["input_blocks.0.0.weight"].shape == (192, 6, 3, 3)


@pytest.mark.parametrize("knows_level", [False, True])
@pytest.mark.parametrize("num_classes", [None, 3])
def test_along_a_chain_the_network_gives_what_each_call_gives(knows_level, num_classes):
    network = small_network(num_classes=num_classes, knows_level=knows_level)
    x, low_res, times = torch.randn(3, 1, 8, 8), torch.randn(3, 1, 4, 4), torch.tensor([0.0, 40.0, 900.0])
    given = {"low_res": low_res} | ({"level": torch.tensor([0.0, 0.1, 0.4])} if knows_level else {})
    given |= {"y": torch.tensor([0, 1, 2])} if num_classes else {}
    at_step = network.along(times, **given)
    with torch.no_grad():
        for number, time in enumerate(times):
            assert agree(at_step(x, torch.tensor([number])), network(x, time.expand(3), **given))
        if knows_level:
            one = network(x, times, **given)
            two = network(x, times, **given | {"level": torch.zeros(3)})
            assert torch.equal(one[0], two[0]) and not agree(one[1:], two[1:], 1e-3)
    with pytest.raises(ValueError, match="levels of noise on low_res are needed exactly where"):
        network(x, times, **{key: value for key, value in given.items() if key != "level"}
                | ({} if knows_level else {"level": torch.zeros(3)}))


def test_noise_on_the_small_image_keeps_its_variance():
    torch.manual_seed(0)
    low_res, noise, level = torch.randn(3, 1, 64, 64), torch.randn(3, 1, 64, 64), torch.tensor([0.0, 0.6, 1.0])
    found = noised_low_res(low_res, level, noise)
    assert torch.equal(found[0], low_res[0]) and torch.equal(found[2], noise[2])
    assert torch.allclose(found[1], 0.8 * low_res[1] + 0.6 * noise[1]) and abs(float(found[1].std()) - 1) < 0.05


def test_reducing_is_the_mean_over_squares():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert reduced(x, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5] and torch.equal(reduced(x, 4), x)
    assert torch.equal(enlarged(x, 4), x)


def small_network(**settings) -> SuperResolutionUNet:
    """A network of noise for images of 8x8 pixels."""
    torch.manual_seed(0)
    network = SuperResolutionUNet(
        image_size=8, in_channels=1, out_channels=2, num_channels=8, num_res_blocks=1, channel_mult=[1, 2],
        attention_resolutions=[4], num_heads=2, **settings).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def test_without_a_small_image_the_network_says_what_it_needs():
    with pytest.raises(ValueError, match="the network needs small images low_res"):
        small_network()(torch.zeros(1, 1, 8, 8), torch.zeros(1))


def test_recorded_steps_are_the_steps(graphs_without_gpu):
    network, low_res = small_network(knows_level=True), torch.randn(2, 1, 4, 4)
    diffusion = GaussianDiffusion(betas_of("cosine", 10), variance="learned_range")
    x_T = torch.randn(2, 1, 8, 8)

    def chain(cuda_graph: bool) -> torch.Tensor:
        denoise = Denoiser(diffusion, network, model_kwargs={"low_res": low_res, "level": torch.tensor([0.1, 0.1])})
        steps = sampler_function("ddim")(denoise, {"x": x_T}, torch.randn_like, cuda_graph=cuda_graph, eta=0.0)
        return list(steps)[-1].x
    assert torch.equal(chain(True), chain(False))


def test_classifier_free_guidance_compares_with_and_without_a_class_given_the_small_image():
    network, times = small_network(num_classes=3, null_class=True), torch.tensor([10.0, 700.0])
    x, low_res, y = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 4, 4), torch.tensor([0, 2])
    guided = ClassifierFree(network, 3, np.array([0.0, 1.5])).along(times, y=y, low_res=low_res)
    with torch.no_grad():
        for number, scale in ((0, 1.0), (1, 2.5)):
            t = times[number].expand(2)
            with_class, without = (network(x, t, label, low_res=low_res) for label in (y, torch.full_like(y, 3)))
            expected = torch.cat([without[:, :1] + scale * (with_class - without)[:, :1], with_class[:, 1:]], dim=1)
            assert agree(guided.at(number)(x, torch.tensor([number])), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_compiled_network_gives_the_output_of_the_eager_one():
    network, given = small_network(knows_level=True), {"low_res": torch.randn(2, 1, 4, 4), "level": torch.tensor([0.1, 0.4])}
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 900.0])
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(x, t, **given), network(x, t, **given), rtol=1e-4, atol=1e-5)
