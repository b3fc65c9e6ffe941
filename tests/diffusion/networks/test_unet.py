import pytest
import torch

from diffusion.networks.layers import Join, attention, timestep_embedding
from diffusion.networks.unet import UNet

SMALL = dict(image_size=8, in_channels=1, out_channels=2, num_channels=32, num_res_blocks=1, channel_mult=[1, 2],
             attention_resolutions=[4], num_heads=2)


def randomised(**options) -> UNet:
    """A small network whose zero-initialised layers are filled, so that every path shows in the output."""
    torch.manual_seed(0)
    network = UNet(**SMALL | options)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def test_timestep_embedding_agrees_with_golden(golden):
    expected = golden.tensors("timestep_embedding")
    for width in (32, 33):
        torch.testing.assert_close(timestep_embedding(expected["t"], width), expected[f"dim{width}"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["unet_uncond32", "unet_classcond32"])
def test_keys_shapes_and_outputs_agree_with_golden(golden, name):
    facts, arrays, network = golden.facts(name), golden.tensors(name), golden.unet(name)
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == facts["state_dict"]
    assert list(network.state_dict()) == list(facts["state_dict"])
    assert sum(parameter.numel() for parameter in network.parameters()) == facts["parameters"]
    with torch.no_grad():
        out = network(arrays["x"], arrays["t"], arrays.get("y"))
    torch.testing.assert_close(out, arrays["out"], rtol=1e-5, atol=1e-5)


def test_published_configurations_have_their_parameter_and_key_counts(golden):
    multipliers = {32: [1, 2, 2, 2], 64: [1, 2, 3, 4], 256: [1, 1, 2, 2, 4, 4]}
    for name, facts in golden.facts("published_configs").items():
        with torch.device("meta"):
            network = UNet(image_size=facts["image_size"], in_channels=3, out_channels=6 if facts["learn_sigma"] else 3,
                           num_channels=facts["num_channels"], num_res_blocks=facts["num_res_blocks"],
                           channel_mult=multipliers[facts["image_size"]], num_heads=facts["num_heads"],
                           attention_resolutions=[int(size) for size in facts["attention_resolutions"].split(",")],
                           dropout=facts["dropout"], use_scale_shift_norm=facts["use_scale_shift_norm"],
                           num_classes=1000 if facts["class_cond"] else None)
        assert len(network.state_dict()) == facts["keys"], name
        assert sum(parameter.numel() for parameter in network.parameters()) == facts["parameters"], name


@pytest.mark.parametrize("image_size, num_channels, channel_mult", [(28, 20, [1, 2, 2]), (12, 7, [1, 2]), (5, 32, [1])])
def test_any_size_that_the_levels_divide_and_any_width(image_size, num_channels, channel_mult):
    network = randomised(image_size=image_size, num_channels=num_channels, channel_mult=channel_mult, num_heads=1,
                         attention_resolutions=[image_size])
    out = network(torch.randn(2, 1, image_size, image_size), torch.tensor([1.0, 900.0]))
    assert out.shape == (2, 2, image_size, image_size) and out.isfinite().all()


def test_size_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="image_size 10 cannot be halved 2 times"):
        UNet(**SMALL | dict(image_size=10, channel_mult=[1, 2, 2]))


def test_labels_are_needed_exactly_where_there_are_classes():
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1.0, 2.0])
    network = randomised(num_classes=3)
    assert not torch.equal(network(x, t, torch.tensor([0, 0])), network(x, t, torch.tensor([1, 2])))
    with pytest.raises(ValueError, match="exactly where"):
        network(x, t)
    with pytest.raises(ValueError, match="exactly where"):
        randomised()(x, t, torch.tensor([0, 1]))


def _gradients(network: UNet, precision: torch.dtype | None) -> list[torch.Tensor]:
    torch.manual_seed(1)  # dropout's masks
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([1.0, 5.0, 300.0, 999.0])
    with torch.autocast("cpu", dtype=precision or torch.bfloat16, enabled=precision is not None):
        out = network(x, t)
    out.float().square().mean().backward()
    return [parameter.grad for parameter in network.parameters()]


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("where", [True, [8], [4], [8, 4]])
@pytest.mark.parametrize("use_scale_shift_norm", [True, False])
def test_gradient_checkpointing_with_dropout_gives_the_same_gradients(precision, where, use_scale_shift_norm):
    options = dict(dropout=0.5, use_scale_shift_norm=use_scale_shift_norm)
    plain = _gradients(randomised(**options), precision)
    recomputed = _gradients(randomised(**options, gradient_checkpointing=where), precision)
    for ours, theirs in zip(recomputed, plain, strict=True):
        assert torch.equal(ours, theirs)


def test_gradient_checkpointing_saves_activation_memory():
    def saved_bytes(**options) -> int:
        network = randomised(**options)
        own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
        storages: dict[int, torch.UntypedStorage] = {}  # held, so that no memory is given out twice
        def keep(tensor):
            if tensor.untyped_storage().data_ptr() not in own:
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = network(torch.randn(8, 1, 8, 8), torch.arange(8.0)).mean()
        assert out.requires_grad
        return sum(storage.nbytes() for storage in storages.values())
    none, everywhere, high, low = (saved_bytes(gradient_checkpointing=where) for where in (False, True, [8], [4]))
    assert everywhere < 0.4 * none
    assert everywhere < min(high, low) and (none - high) + (none - low) == none - everywhere


def test_joining_is_concatenation_whose_gradients_do_not_keep_each_other_alive():
    x, skip, weight = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4), torch.randn(2, 8, 4, 4)
    def joined(join):
        leaves = x.clone().requires_grad_(), skip.clone().requires_grad_()
        out = join(*leaves)
        return out, *torch.autograd.grad((out * weight).sum(), leaves)
    ours, theirs = joined(Join.apply), joined(lambda *parts: torch.cat(parts, dim=1))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert ours[2].untyped_storage().nbytes() == 4 * skip.numel() < theirs[2].untyped_storage().nbytes()


def test_along_a_chain_the_embeddings_are_those_of_each_time():
    x, times, y = torch.randn(2, 1, 8, 8), torch.tensor([0.0, 3.5, 999.0]), torch.tensor([2, 0])
    for network, labels in ((randomised(), {}), (randomised(num_classes=3), {"y": y})):
        at_step = network.along(times, **labels)
        for step, time in enumerate(times):
            expected = network(x, time.expand(2), **labels)
            torch.testing.assert_close(at_step(x, torch.tensor([step])), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="exactly where"):
        randomised(num_classes=3).along(times)


@pytest.mark.parametrize("tokens, width", [(16, 8), (64, 24)])
def test_attention_in_bfloat16_is_that_of_single_precision(tokens, width):
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(2, 3, tokens, width, generator=generator).bfloat16() for _ in range(4)]

    def with_gradients(dtype):
        q, k, v = (one.to(dtype).requires_grad_() for one in given[:3])
        out = attention(q, k, v)
        return out, *torch.autograd.grad(out, (q, k, v), given[3].to(dtype))
    for half, single in zip(with_gradients(torch.bfloat16), with_gradients(torch.float32), strict=True):
        assert half.dtype == torch.bfloat16
        assert (half.float() - single).norm() < 0.01 * single.norm()
