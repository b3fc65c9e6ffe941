"""jobs.cost.count against published counts, and against torch's own counts on the real network."""

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import GOLDEN, ROOT
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffusion.networks.unet import UNet
from jobs.cost.count import run_cost, stored_bytes
from jobs.kinds.diffusion.layer_costs import unet_layers
from jobs.kinds.diffusion.sections import (
    Diffusion,
    DiffusionEvaluateAsWritten,
    DiffusionSample,
    DiffusionSpec,
    DiffusionSpecAsWritten,
    DiffusionTrain,
    ModelAsWritten,
    resolve,
)
from jobs.spec.resources import Resources, StageResources
from jobs.spec.sections import Data

PUBLISHED = json.loads((GOLDEN / "published_configs.json").read_text())
GFLOP = {"cifar10_uncond_50M_500K": 16.77, "imagenet64_uncond_100M_1500K": 79.5, "imagenet64_cond_270M_250K": 178}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def published_spec(config: dict) -> DiffusionSpec:
    """A spec for one of the reference's configurations."""
    fields = ("num_channels", "num_res_blocks", "num_heads", "dropout", "learn_sigma", "use_scale_shift_norm")
    attention = [int(resolution) for resolution in config["attention_resolutions"].split(",")]
    return resolve(DiffusionSpecAsWritten(
        name="published",
        data=Data(path="x.h5", image_size=config["image_size"], class_cond=config["class_cond"],
                  num_classes=1000 if config["class_cond"] else None),
        model=ModelAsWritten(attention_resolutions=attention, **{field: config[field] for field in fields}),
        train=DiffusionTrain(iterations=500_000),
    ))


def small_spec(num_classes: int | None = None, batch_size: int = 4, precision: str = "fp32",
               checkpointing: bool | list[int] = False, **model) -> DiffusionSpec:
    shape = {"num_channels": 32, "num_res_blocks": 1, "channel_mult": [1, 2], "attention_resolutions": [8],
             "num_heads": 2}
    return resolve(DiffusionSpecAsWritten(
        name="small",
        data=Data(path="x.h5", image_size=16, class_cond=num_classes is not None, num_classes=num_classes),
        model=ModelAsWritten(**{**shape, **model}),
        train=DiffusionTrain(iterations=10, batch_size=batch_size, precision=precision, gradient_checkpointing=checkpointing),
    ))


def build(spec: DiffusionSpecAsWritten) -> UNet:
    model = spec.model.model_dump(exclude={"learn_sigma"})  # names are those of UNet
    return UNet(image_size=spec.data.image_size, in_channels=spec.data.channels,
                out_channels=spec.data.channels * (2 if spec.model.learn_sigma else 1),
                num_classes=spec.data.num_classes, gradient_checkpointing=spec.train.gradient_checkpointing, **model)


def inputs(spec: DiffusionSpecAsWritten, count: int) -> list[torch.Tensor]:
    """x, t and, where there are classes, y; on the default device."""
    x = torch.zeros(count, spec.data.channels, spec.data.image_size, spec.data.image_size)
    y = [torch.zeros(count, dtype=torch.int64)] if spec.data.class_cond else []
    return [x, torch.zeros(count), *y]


def counted_sizes(spec: DiffusionSpecAsWritten) -> dict[str, tuple[int, int]]:
    return {layer.name: (layer.parameters, layer.tensors) for layer in unet_layers(spec)}


def sizes_by_layer(spec: DiffusionSpecAsWritten, shapes: dict[str, list[int]]) -> dict[str, tuple[int, int]]:
    """Parameters and keys under each layer's name; every key belongs to exactly one layer."""
    found = {layer.name: (0, 0) for layer in unet_layers(spec)}
    for key, shape in shapes.items():
        [name] = [name for name in found if key.startswith(name + ".")]
        parameters, tensors = found[name]
        found[name] = (parameters + torch.Size(shape).numel(), tensors + 1)
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_the_published_size(name):
    cost = run_cost(published_spec(PUBLISHED[name]))
    assert (cost.parameters, cost.tensors) == (PUBLISHED[name]["parameters"], PUBLISHED[name]["keys"])


@pytest.mark.parametrize("name", ["unet_uncond32", "unet_classcond32"])
def test_every_layer_has_its_keys_of_the_reference(name):
    config = json.loads((GOLDEN / f"{name}.json").read_text())
    spec = published_spec(config)
    assert run_cost(spec).parameters == config["parameters"]
    assert counted_sizes(spec) == sizes_by_layer(spec, config["state_dict"])


@pytest.mark.parametrize("name", GFLOP)
def test_published_networks_take_the_known_operations(name):
    assert run_cost(published_spec(PUBLISHED[name])).forward_flops / 1e9 == pytest.approx(GFLOP[name], rel=2e-3)


def measured_flops(spec: DiffusionSpecAsWritten, count: int) -> int:
    # The fused CPU attention is unknown to torch's counter; the plain one is two batched products.
    with torch.device("meta"), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        build(spec)(*inputs(spec, count))
    return counter.get_total_flops()


def test_cifar_operations_are_those_that_torch_counts():
    spec = published_spec(PUBLISHED["cifar10_uncond_50M_500K"])
    assert measured_flops(spec, 2) == 2 * run_cost(spec).forward_flops


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(channel_mult=st.lists(st.sampled_from([0.5, 1, 2, 3]), min_size=1, max_size=4), num_res_blocks=st.integers(1, 2),
       attention=st.sets(st.sampled_from([16, 8, 4, 2])), num_channels=st.sampled_from([8, 12]),
       scale_shift=st.booleans(), learn_sigma=st.booleans(), num_classes=st.sampled_from([None, 10]),
       adm=st.fixed_dictionaries({"resblock_updown": st.booleans(), "num_head_channels": st.sampled_from([None, 2]),
                                  "num_heads_upsample": st.sampled_from([None, 1])}))
def test_any_network_is_counted_as_torch_counts_it(channel_mult, num_res_blocks, attention, num_channels, scale_shift,
                                                   learn_sigma, num_classes, adm):
    spec = small_spec(num_classes, channel_mult=channel_mult, num_res_blocks=num_res_blocks, num_channels=num_channels,
                      attention_resolutions=sorted(attention), use_scale_shift_norm=scale_shift,
                      learn_sigma=learn_sigma, **adm)
    with torch.device("meta"):
        shapes = {key: list(value.shape) for key, value in build(spec).state_dict().items()}
    assert counted_sizes(spec) == sizes_by_layer(spec, shapes)
    assert measured_flops(spec, 3) == 3 * run_cost(spec).forward_flops


@pytest.mark.parametrize("num_classes", [None, 10])
@pytest.mark.parametrize("checkpointing", [False, True, [8], [16, 8]])
def test_a_training_step_takes_what_is_said(checkpointing, num_classes):
    spec = small_spec(num_classes, checkpointing=checkpointing, num_res_blocks=2)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        build(spec)(*inputs(spec, 4)).sum().backward()
    cost = run_cost(spec)
    layers = unet_layers(spec)
    # Nobody asks for the gradient of x, or of the sinusoids.
    unasked = layers[0].flops * 32 / (32 + 128) + next(layer.flops for layer in layers if layer.kind == "conv")
    by_torch = counter.get_total_flops()
    assert cost.training_step_flops - by_torch == pytest.approx(4 * unasked, abs=0.002 * by_torch)
    assert (cost.recomputed_flops == 0) == (checkpointing is False)


def saved_bytes(spec: DiffusionSpecAsWritten) -> int:
    """Of the storages that autograd keeps after a forward pass, the network's own parameters left out."""
    network, arguments = build(spec), inputs(spec, spec.train.batch_size)
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.float16, enabled=spec.train.precision == "fp16"):
            output = network(*arguments).float().square().mean()  # holds the graph, so that no storage is reused
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    assert output.requires_grad
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in parameters)


@pytest.mark.parametrize("model", [
    {},
    {"dropout": 0.1},
    {"use_scale_shift_norm": False, "num_classes": 10},
    {"num_res_blocks": 2, "channel_mult": [1, 2, 2], "attention_resolutions": [16, 8, 4]},
    {"resblock_updown": True, "channel_mult": [1, 1, 2], "dropout": 0.1},
], ids=["plain", "dropout", "no-scale-class-cond", "deeper-more-attention", "resblock-updown"])
def test_activations_are_those_that_autograd_keeps(model):
    spec = small_spec(**model)
    assert run_cost(spec).training_memory.activations == pytest.approx(saved_bytes(spec), rel=0.03)


@pytest.mark.parametrize("resblock_updown", [False, True])
@pytest.mark.parametrize("checkpointing, resolutions", [(True, {16, 8}), ([16], {16}), ([8], {8})])
def test_checkpointed_activations_are_those_that_autograd_keeps(checkpointing, resolutions, resblock_updown):
    spec = small_spec(dropout=0.1, checkpointing=checkpointing, channel_mult=[1, 4], resblock_updown=resblock_updown)
    layers = unet_layers(spec)
    again = [layer for layer in layers if layer.kind in ("res", "attention") and layer.resolution in resolutions]
    predicted = 4 * 4 * sum(layer.checkpointed_activations if layer in again else layer.activations for layer in layers)
    assert predicted == pytest.approx(saved_bytes(spec), rel=0.01)
    # While a layer is recomputed, its own activations come on top.
    largest = 4 * 4 * max(layer.activations for layer in again)
    assert run_cost(spec).training_memory.activations == predicted + largest


@pytest.mark.parametrize("model", [{"dropout": 0.1}, {"use_scale_shift_norm": False}, {"resblock_updown": True}],
                         ids=["dropout", "no-scale", "resblock-updown"])
def test_mixed_precision_keeps_norms_in_fp32_and_a_half_copy_of_the_weights(model):
    # On a GPU; on a CPU bf16 takes less, for its norms need no copy in fp32, and more for the weights of its attention.
    spec = small_spec(precision="fp16", batch_size=8, **model)
    memory = run_cost(spec).training_memory
    assert memory.half_parameters == 2 * run_cost(spec).parameters
    assert memory.activations + memory.half_parameters == pytest.approx(saved_bytes(spec), rel=0.03)


def test_a_whole_run_adds_up():
    spec = published_spec(PUBLISHED["cifar10_uncond_50M_500K"])
    cost = run_cost(spec)
    assert cost.training_flops == pytest.approx(3.220e18, rel=1e-3)
    assert cost.sampling_flops == pytest.approx(3.355e18, rel=1e-3)
    assert cost.checkpoint_bytes == 4 * 4 * 52_546_438  # weights, one average, two moments
    memory = cost.training_memory
    assert (memory.parameters, memory.half_parameters, memory.gradients, memory.optimizer, memory.ema) == tuple(
        4 * 52_546_438 * copies for copies in (1, 0, 1, 2, 1))
    assert memory.total == 5 * memory.parameters + memory.activations


def test_the_spec_sets_the_amounts():
    spec = small_spec(num_classes=10).model_copy(update={
        "diffusion": Diffusion(diffusion_steps=1000),
        "sample": DiffusionSample(num_samples=1001, batch_size=500, timestep_respacing="10,15"),
        "evaluate": DiffusionEvaluateAsWritten(nll_examples=7),
        "train": DiffusionTrain(iterations=3, batch_size=64, microbatch=None, ema_rate=[0.99, 0.999]),
        "resources": Resources(train=StageResources(nodes=2, gpus_per_node=4)),
    })
    cost = run_cost(spec)
    assert cost.training_flops == 3 * cost.training_step_flops == 3 * 3 * 64 * cost.forward_flops
    assert (cost.sampling_steps, cost.sampling_flops) == (25, 1001 * 25 * cost.forward_flops)
    assert cost.evaluate_forward_passes == 7 * (1000 + 25)  # bits/dim over the full chain, and over the one that is sampled
    assert (cost.chunks, cost.samples_bytes) == (3, 1001 * (16 * 16 * 3 + 8 + 8))
    assert cost.checkpoint_bytes == 5 * 4 * cost.parameters
    assert cost.training_memory.ema == 2 * cost.training_memory.parameters

    per_image = 4 * sum(layer.activations for layer in unet_layers(spec))
    assert cost.training_memory.activations == 8 * per_image  # 64 over 8 ranks
    halved = spec.model_copy(update={"train": spec.train.model_copy(update={"microbatch": 2})})
    assert run_cost(halved).training_memory.activations == 2 * per_image


def test_every_point_is_sampled():
    spec = small_spec().model_copy(update={
        "diffusion": Diffusion(diffusion_steps=40), "train": DiffusionTrain(iterations=12),
        "sample": DiffusionSample(num_samples=10, timestep_respacing="20", at=[4, "last"]),
        "evaluate": DiffusionEvaluateAsWritten(respacings=["5"])})
    cost = run_cost(spec)
    assert (cost.sampling_steps, cost.sampling_flops) == (20, 10 * (20 + 20 + 5 + 5) * cost.forward_flops)
    plain = run_cost(spec.model_copy(update={"sample": DiffusionSample(num_samples=10, timestep_respacing="20"),
                                             "evaluate": DiffusionEvaluateAsWritten()}))
    assert (cost.chunks, cost.samples_bytes) == (plain.chunks, plain.samples_bytes)


def test_snapshots_of_averages_are_counted():
    plain = small_spec()
    with_averages = plain.model_copy(update={"train": plain.train.model_copy(update={"ema_sigma_rel": [0.05, 0.1]})})
    parameters, train = run_cost(plain).parameters, plain.train
    count = min(train.ema_snapshots, train.iterations)
    cost = run_cost(with_averages)
    assert run_cost(plain).snapshots_bytes == 0 and cost.snapshots_bytes == count * 2 * 4 * parameters
    assert cost.checkpoint_bytes - run_cost(plain).checkpoint_bytes == 2 * 4 * parameters
    assert cost.training_memory.ema - run_cost(plain).training_memory.ema == 2 * 4 * parameters
    kept = 2 + 1 + train.iterations // (train.keep_interval or train.iterations)
    assert stored_bytes(with_averages) - stored_bytes(plain) == (kept + count) * 2 * 4 * parameters
    assert stored_bytes(with_averages, None) == stored_bytes(plain, None)  # another run trains


def test_it_needs_no_torch():
    code = "import sys, jobs.cost.count; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
