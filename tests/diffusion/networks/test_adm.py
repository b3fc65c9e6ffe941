"""The networks of guided-diffusion, and the head counts of improved-diffusion, against the numbers of their own code."""

import hashlib

import pytest
import torch
from torch import nn

from diffusion.networks.half_unet import HalfUNet
from diffusion.networks.layers import Attention, ResBlock, doubled, halved
from diffusion.networks.unet import UNet

UNETS = ["adm_new_order", "adm_legacy_order", "adm_half_width", "adm_num_heads", "adm_conv_updown", "adm_no_scale_shift",
         "iddpm_heads_upsample"]
POOLS = ["attention", "attention_half", "adaptive", "spatial", "spatial_v2"]


def with_formula_weights(golden, network: nn.Module) -> nn.Module:
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(golden.formula_weights(shapes))
    return network.eval()


def agree(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return bool((ours - theirs).norm() <= tolerance * theirs.norm())


def arrays_of(golden, file: str, name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{name}_"): value for key, value in golden.tensors(file).items() if key.startswith(f"{name}_")}


def root_mean_squares(network: nn.Module, *arguments) -> tuple[torch.Tensor, dict[str, float]]:
    """Call the network; return the output and the root mean square of every block's output, by the block's name."""
    found = {}
    for name, module in network.named_modules():
        if name.split(".")[0] in ("input_blocks", "output_blocks") and name.count(".") == 1 or name == "middle_block":
            module.register_forward_hook(lambda _, given, out, name=name: found.update({name: out.square().mean().sqrt().item()}))
    return network(*arguments), found


@pytest.mark.parametrize("name", UNETS)
def test_unets_agree_with_golden(golden, name):
    facts, arrays = golden.facts("adm_unets")[name], arrays_of(golden, "adm_unets", name)
    network = with_formula_weights(golden, UNet(**golden.adm_settings(facts)))
    assert [[key, list(value.shape)] for key, value in network.state_dict().items()] == [
        [key, shape] for key, shape in facts["state_dict"].items()]
    with torch.no_grad():
        out, rms = root_mean_squares(network, arrays["x"], arrays["t"], arrays.get("y"))
    assert rms == pytest.approx(facts["block_rms"], rel=1e-5)
    assert agree(out, arrays["out"])


def test_the_wrong_order_of_attention_loads_and_gives_the_other_numbers(golden):
    facts, arrays = golden.facts("adm_unets")["adm_new_order"], arrays_of(golden, "adm_unets", "adm_new_order")
    wrong = with_formula_weights(golden, UNet(**golden.adm_settings(facts) | {"use_new_attention_order": False}))
    with torch.no_grad():
        out = wrong(arrays["x"], arrays["t"], arrays["y"])
    assert agree(out, arrays["run_as_legacy"]) and not agree(out, arrays["out"], 1e-2)


def test_the_number_of_heads_on_the_way_up_matters_and_head_channels_win_over_it(golden):
    facts, arrays = golden.facts("adm_unets")["iddpm_heads_upsample"], arrays_of(golden, "adm_unets", "iddpm_heads_upsample")
    def output(**changes):
        network = with_formula_weights(golden, UNet(**golden.adm_settings(facts) | changes))
        with torch.no_grad():
            return network(arrays["x"], arrays["t"], arrays["y"])
    assert not agree(output(num_heads_upsample=None), arrays["out"], 1e-3)
    assert torch.equal(output(num_head_channels=16), output(num_head_channels=16, num_heads_upsample=None, num_heads=1))


@pytest.mark.parametrize("name", POOLS)
def test_classifiers_and_their_gradients_agree_with_golden(golden, name):
    facts, arrays = golden.facts("classifiers")[name], arrays_of(golden, "classifiers", name)
    if name == "attention":  # another case's name begins with this one
        arrays = {key: value for key, value in arrays.items() if not key.startswith("half_")}
    network = with_formula_weights(golden, HalfUNet(**golden.half_settings(facts)))
    assert [[key, list(value.shape)] for key, value in network.state_dict().items()] == [
        [key, shape] for key, shape in facts["state_dict"].items()]
    x = arrays["x"].requires_grad_()
    logits, rms = root_mean_squares(network, x, arrays["t"])
    assert rms == pytest.approx(facts["block_rms"], rel=1e-5)
    assert agree(logits, arrays["logits"])
    chosen = logits.log_softmax(dim=1).gather(1, arrays["y"][:, None])[:, 0]
    assert agree(chosen, arrays["selected_log_probability"])
    gradient, = torch.autograd.grad(chosen.sum(), x)
    assert agree(gradient, arrays["gradient"])


def test_published_configurations_have_their_keys_shapes_and_parameters(golden):
    published = {name: flags for name, flags in golden.facts("published_configs_adm").items()
                 if flags["network"] != "SuperResModel"}
    assert len(published) == 10
    for name, flags in published.items():
        with torch.device("meta"):
            network = (UNet(**golden.adm_settings(flags)) if flags["network"] == "UNetModel"
                       else HalfUNet(**golden.half_settings(flags)))
        layout = network.state_dict()
        assert len(layout) == flags["keys"], name
        assert sum(parameter.numel() for parameter in network.parameters()) == flags["parameters"], name
        lines = "\n".join(f"{key} {list(value.shape)}" for key, value in layout.items())
        assert hashlib.sha256(lines.encode()).hexdigest() == flags["layout_sha256"], name


SMALL = dict(image_size=8, in_channels=1, num_channels=32, num_res_blocks=1, channel_mult=[0.5, 1], attention_resolutions=[4],
             num_heads=4, num_head_channels=16, resblock_updown=True, use_new_attention_order=True)


def randomised(kind: type[nn.Module], **options) -> nn.Module:
    torch.manual_seed(0)
    network = kind(**SMALL | {"out_channels": 2} | options)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize("kind", [UNet, HalfUNet])
@pytest.mark.parametrize("where", [True, [8], [4]])
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_gradient_checkpointing_gives_the_same_gradients(kind, where, precision):
    def gradients(**options):
        network = randomised(kind, dropout=0.5, **options)
        torch.manual_seed(1)  # dropout's masks
        x = torch.randn(4, 1, 8, 8)
        with torch.autocast("cpu", dtype=precision or torch.bfloat16, enabled=precision is not None):
            network(x, torch.tensor([1.0, 5.0, 300.0, 999.0])).float().square().mean().backward()
        return [parameter.grad for parameter in network.parameters()]
    for ours, theirs in zip(gradients(gradient_checkpointing=where), gradients(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial", "spatial_v2"])
def test_along_a_chain_a_classifier_gives_the_logits_of_each_time(pool):
    network, x, times = randomised(HalfUNet, pool=pool), torch.randn(2, 1, 8, 8), torch.tensor([0.0, 3.5, 999.0])
    at_step = network.along(times)
    for step, time in enumerate(times):
        torch.testing.assert_close(at_step(x, torch.tensor([step])), network(x, time.expand(2)), rtol=1e-4, atol=1e-5)


def test_a_new_classifier_has_random_positions_and_the_adaptive_pool_begins_with_equal_logits():
    positions = HalfUNet(**SMALL, out_channels=10).out[2].positional_embedding.detach()
    assert positions.shape == (32, 4 * 4 + 1) and positions.std().item() == pytest.approx(32 ** -0.5, rel=0.2)
    with torch.no_grad():
        assert not HalfUNet(**SMALL, out_channels=10, pool="adaptive")(torch.randn(2, 1, 8, 8), torch.ones(2)).any()


def test_residual_blocks_resize_both_ways_around_the_convolution():
    x, embedding = torch.randn(2, 8, 6, 6), torch.randn(2, 4)
    for resample, size in ((halved, 3), (doubled, 12), (None, 6)):
        block = ResBlock(8, 16, 4, 0.0, True, resample)
        out = block(x, embedding)
        assert out.shape == (2, 16, size, size)
        resized = x if resample is None else resample(x)
        # The last convolution starts at zero: what is left is the resized input through the skip connection.
        torch.testing.assert_close(out, block.skip_connection(resized))
    torch.testing.assert_close(halved(x)[0, 0, 0, 0], x[0, 0, :2, :2].mean())
    assert torch.equal(doubled(x)[:, :, ::2, 1::2], x)


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match="heads of 24 channels do not divide 32 channels"):
        randomised(UNet, num_head_channels=24)
    with pytest.raises(ValueError, match="3 heads do not divide 32 channels"):
        randomised(UNet, num_head_channels=None, num_heads_upsample=3)
    with pytest.raises(ValueError, match="3 heads do not divide"):
        Attention(32, 3)
    with pytest.raises(ValueError, match="unknown pool 'max'; there are attention, adaptive, spatial and spatial_v2"):
        randomised(HalfUNet, pool="max")
