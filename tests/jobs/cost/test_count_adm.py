"""The layers of guided-diffusion's networks, counted without torch, against their own counts and torch's."""

import json
from math import prod

import pytest
import torch
from paths import GOLDEN
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffusion.networks.half_unet import HalfUNet
from diffusion.networks.pools import POOLS
from jobs.cost.count import run_cost
from jobs.kinds.diffusion.build import build_network, network_settings
from jobs.kinds.diffusion.layer_costs import half_unet_layers
from jobs.kinds.diffusion.network_section import NetworkAsWritten
from jobs.kinds.diffusion.sections import (
    DiffusionSpec,
    DiffusionSpecAsWritten,
    DiffusionTrain,
    Model,
    ModelAsWritten,
    diffusion_contradictions,
    resolve,
)
from jobs.spec.sections import Data

PUBLISHED = json.loads((GOLDEN / "published_configs_adm.json").read_text())
UNETS = [name for name, flags in PUBLISHED.items() if flags["network"] == "UNetModel"]
CLASSIFIERS = [name for name, flags in PUBLISHED.items() if flags["network"] == "EncoderUNetModel"]


def published_spec(flags: dict) -> DiffusionSpec:
    names = ("num_channels", "num_res_blocks", "channel_mult", "num_heads", "resblock_updown", "dropout", "learn_sigma",
             "use_scale_shift_norm", "use_new_attention_order")
    return resolve(DiffusionSpecAsWritten(
        name="published", train=DiffusionTrain(iterations=500_000),
        data=Data(path="x.h5", image_size=flags["image_size"], class_cond=flags["class_cond"], num_classes=flags["num_classes"]),
        model=ModelAsWritten(**{name: flags[name] for name in names},
                             num_head_channels=None if flags["num_head_channels"] == -1 else flags["num_head_channels"],
                             attention_resolutions=[int(size) for size in flags["attention_resolutions"].split(",")])))


@pytest.mark.parametrize("name", UNETS)
def test_published_networks_have_the_published_size_and_no_contradiction(name):
    spec = published_spec(PUBLISHED[name])
    cost = run_cost(spec)
    assert (cost.parameters, cost.tensors) == (PUBLISHED[name]["parameters"], PUBLISHED[name]["keys"])
    assert diffusion_contradictions(spec) == []
    with torch.device("meta"):
        network = build_network(spec)
    assert sum(parameter.numel() for parameter in network.parameters()) == PUBLISHED[name]["parameters"]


@pytest.mark.parametrize("name", ["64x64_diffusion", "512x512_diffusion"])
def test_published_networks_take_the_operations_that_torch_counts(name):
    spec = published_spec(PUBLISHED[name])
    assert counted_by_torch(lambda: build_network(spec), spec.data, y=spec.data.class_cond) == run_cost(spec).forward_flops


def counted_by_torch(network, data: Data, y: bool = False) -> int:
    with torch.device("meta"), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        labels = [torch.zeros(1, dtype=torch.int64)] if y else []
        network()(torch.zeros(1, data.channels, data.image_size, data.image_size), torch.zeros(1), *labels)
    return counter.get_total_flops()


def half(model: NetworkAsWritten, data: Data, classes: int, pool: str) -> HalfUNet:
    return HalfUNet(image_size=data.image_size, in_channels=data.channels, out_channels=classes, pool=pool,
                    **network_settings(model))


def assert_layers_are_those_of(network: HalfUNet, layers) -> None:
    """Every key belongs to one layer, in order, with as many tensors and parameters as the layer says."""
    sizes = {layer.name: [0, 0] for layer in layers}
    for key, value in network.state_dict().items():
        [name] = [name for name in sizes if key.startswith(name + ".")]
        sizes[name][0] += prod(value.shape)
        sizes[name][1] += 1
    assert sizes == {layer.name: [layer.parameters, layer.tensors] for layer in layers}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_published_classifiers_have_the_published_size(name):
    flags = PUBLISHED[name]
    model = Model(num_channels=flags["classifier_width"], num_res_blocks=flags["classifier_depth"],
                  channel_mult=flags["channel_mult"], num_head_channels=64, resblock_updown=True, learn_sigma=False,
                  attention_resolutions=[32, 16, 8])
    layers = half_unet_layers(model, Data(path="x.h5", image_size=flags["image_size"]), flags["num_classes"], "attention")
    assert sum(layer.parameters for layer in layers) == flags["parameters"]
    assert sum(layer.tensors for layer in layers) == flags["keys"]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("settings", [{}, {"resblock_updown": True, "num_head_channels": 16, "channel_mult": [0.5, 1, 2]}])
def test_classifiers_are_counted_as_torch_counts_them(pool, settings):
    model = NetworkAsWritten(**{"num_channels": 32, "num_res_blocks": 1, "channel_mult": [1, 2], "attention_resolutions": [8],
                                "num_heads": 2} | settings)
    data = Data(path="x.h5", image_size=16)
    layers = half_unet_layers(model, data, 10, pool)
    assert_layers_are_those_of(half(model, data, 10, pool), layers)
    assert counted_by_torch(lambda: half(model, data, 10, pool), data) == sum(layer.flops for layer in layers)


@pytest.mark.parametrize("pool", POOLS)
def test_activations_of_classifiers_are_those_that_autograd_keeps(pool):
    model = NetworkAsWritten(num_channels=32, num_res_blocks=1, channel_mult=[1, 2], attention_resolutions=[8], num_heads=2,
                             resblock_updown=True)
    data = Data(path="x.h5", image_size=16)
    network, storages = half(model, data, 10, pool), {}
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        assert network(torch.zeros(4, 3, 16, 16), torch.zeros(4)).sum().requires_grad
    by_count = 4 * 4 * sum(layer.activations for layer in half_unet_layers(model, data, 10, pool))
    assert by_count == pytest.approx(sum(storage.nbytes() for storage in storages.values()), rel=0.03)


def test_settings_that_say_nothing_new_leave_the_identity_of_samples_as_it_was():
    plain = Model(channel_mult=[1, 2], learn_sigma=True)
    assert plain.identity(["dropout"]) == {"num_channels": 128, "num_res_blocks": 3, "channel_mult": [1, 2], "num_heads": 4,
                                           "attention_resolutions": [16, 8], "use_scale_shift_norm": True, "learn_sigma": True}
    new = plain.model_copy(update={"num_head_channels": 64, "resblock_updown": True, "dropout": 0.1})
    assert new.identity(["dropout"]) == plain.identity(["dropout"]) | {"num_head_channels": 64, "resblock_updown": True}


def test_whole_multipliers_are_whole_numbers_in_every_spelling():
    written = Model(channel_mult=[0.5, 1.0, 2], learn_sigma=True)
    assert written.channel_mult == [0.5, 1, 2] and [type(mult) for mult in written.channel_mult] == [float, int, int]
    assert json.dumps(written.model_dump()["channel_mult"]) == "[0.5, 1, 2]"
