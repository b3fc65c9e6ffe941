"""Masks of dropout are functions of the examples' keys, and look random."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diffusion.networks.dropout import LEVELS, KeyedDropout, kept, numbers_per_example, random_numbers
from diffusion.networks.unet import UNet

C, SIDE = 32, 9  # an odd number of pixels


def keys(n, seed=0):
    return torch.randint(-2 ** 63, 2 ** 63 - 1, (n,), generator=torch.Generator().manual_seed(seed))


def masks(n, dropped, seed=0):
    return kept(random_numbers(keys(n, seed), numbers_per_example(C, SIDE ** 2)), C, SIDE ** 2, dropped)


def splitmix64(key, count):
    """SplitMix64 in whole numbers of Python, low halves first."""
    mask, found = 2 ** 64 - 1, []
    for place in range(1, count + 1):
        z = (key + place * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
        found.append(z)
    return [z & 0xFFFFFFFF for z in found] + [z >> 32 for z in found]


def test_numbers_are_those_of_splitmix64():
    assert splitmix64(1234567, 1) == [6457827717110365317 & 0xFFFFFFFF, 6457827717110365317 >> 32]  # its published first number
    for key in (1234567, 0, -1, -2 ** 63):
        ours = random_numbers(torch.tensor([key]), 7)[0].tolist()
        assert [number & 0xFFFFFFFF for number in ours] == splitmix64(key, 4)[:7]


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_as_many_are_dropped_as_asked_for_and_the_mean_stays(p):
    x = torch.ones(400, C, SIDE, SIDE)
    layer = KeyedDropout(p).train()
    out = layer(x, random_numbers(keys(400), numbers_per_example(C, SIDE ** 2)))
    sigma = (p * (1 - p) / out.numel()) ** 0.5
    assert abs((out == 0).float().mean() - p) < 4 * sigma
    assert out.max() == pytest.approx(1 / (1 - p), rel=1e-4) and set(out.unique().tolist()) == {0.0, out.max().item()}
    for dim in ((0, 1), (0, 2, 3), (1, 2, 3)):  # each pixel, channel and example alike
        found = (out == 0).float().mean(dim)
        each = out.numel() / found.numel()
        chi2 = ((found - p) ** 2 / (p * (1 - p) / each)).mean()
        assert abs(chi2 - 1) < 5 * (2 / found.numel()) ** 0.5


def test_decisions_are_uncorrelated():
    bits = masks(600, LEVELS // 2).float() * 2 - 1  # [600, C, P]
    by_pixel = bits.flatten(0, 1)
    by_channel = bits.permute(0, 2, 1).flatten(0, 1)
    by_example = bits.flatten(1)[:200].T
    for rows in (by_pixel, by_channel, by_example):
        correlation = rows.T @ rows / len(rows)
        off = correlation[~torch.eye(len(correlation), dtype=torch.bool)] * len(rows) ** 0.5
        assert off.std() == pytest.approx(1, abs=0.05) and off.abs().max() < 6
    # Rectangles of two pixels and two channels, which a product of a row and a column could give away.
    rectangles = bits[:, :-1, :-1] * bits[:, :-1, 1:] * bits[:, 1:, :-1] * bits[:, 1:, 1:]
    assert abs(rectangles.mean()) * rectangles.numel() ** 0.5 < 5


def test_a_mask_depends_on_its_own_key_alone():
    together = masks(6, LEVELS // 3)
    numbers = random_numbers(keys(6), numbers_per_example(C, SIDE ** 2))
    for part in (slice(0, 1), slice(2, 5)):
        assert torch.equal(kept(numbers[part], C, SIDE ** 2, LEVELS // 3), together[part])
    assert not torch.equal(together[0], together[1]) and not torch.equal(masks(6, LEVELS // 3, seed=1), together)


def network(dropout, **settings):
    torch.manual_seed(0)
    net = UNet(image_size=8, in_channels=1, out_channels=1, num_channels=8, num_res_blocks=1, channel_mult=[1, 2],
               attention_resolutions=[4], num_heads=2, dropout=dropout, **settings)
    for parameter in net.parameters():  # no layer is the identity
        nn.init.normal_(parameter, std=0.1)
    return net.train()


def call(net, rows=slice(None), given=None):
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))[rows]
    return net(x, torch.arange(6.)[rows], drawn=None if given is None else random_numbers(given, net.draws))


def test_the_network_drops_by_key_in_every_layer():
    net, given = network(0.5), keys(6)
    whole = call(net, given=given)
    assert torch.equal(whole, call(net, given=given)) and not torch.equal(whole, call(net, given=keys(6, 1)))
    torch.testing.assert_close(call(net, slice(2, 4), given=given[2:4]), whole[2:4])
    seen = []
    for module in net.modules():
        if isinstance(module, KeyedDropout):
            module.register_forward_hook(lambda _, given, out: seen.append((given[1], out == 0)))
    call(net, given=given)
    parts = [numbers[0].tolist() for numbers, _ in seen]
    assert len(parts) == 8 and len({number for part in parts for number in part}) == sum(map(len, parts)) == net.draws
    assert all(0.4 < zeros.float().mean() < 0.6 for _, zeros in seen)


def test_evaluation_and_no_dropout_are_as_without_keys():
    given = keys(6)
    assert torch.equal(call(network(0.0)), call(network(0.0), given=given))
    assert torch.equal(call(network(0.0)), call(network(0.5).eval(), given=given))


def test_without_keys_dropout_is_torchs():
    layer, x = KeyedDropout(0.4).train(), torch.ones(2, 3, 4, 4)
    torch.manual_seed(3)
    ours = layer(x)
    torch.manual_seed(3)
    assert torch.equal(ours, F.dropout(x, 0.4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_pass_where_activations_do(dtype):
    x = torch.randn(4, C, SIDE, SIDE, dtype=dtype, requires_grad=True)
    out = KeyedDropout(0.25).train()(x, random_numbers(keys(4), numbers_per_example(C, SIDE ** 2)))
    out.sum().backward()
    assert out.dtype == dtype
    torch.testing.assert_close(x.grad, (out != 0).to(dtype) / 0.75, rtol=1e-2, atol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_masks_are_the_same():
    numbers = random_numbers(keys(6), numbers_per_example(C, SIDE ** 2))
    compiled = torch.compile(kept, dynamic=False)
    assert torch.equal(compiled(numbers, C, SIDE ** 2, LEVELS // 3), kept(numbers, C, SIDE ** 2, LEVELS // 3))
