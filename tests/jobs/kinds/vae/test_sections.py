"""The spec of a variational autoencoder: defaults, what it rules out, and its cost against torch's count."""

import pytest
import torch
from small_vae import DENSITY, vae_spec
from torch.utils.flop_counter import FlopCounterMode

from jobs.cost.count import run_cost
from jobs.errors import UserError
from jobs.kinds.protocol import Draw, Examples, model_of
from jobs.spec.kinds import MODEL, kind_of
from jobs.spec.reading.frozen import dump, parse_frozen

SHAPES = [
    [], DENSITY, ["vae.latent=spatial"], ["vae.latent=spatial", "data.class_cond=false", *DENSITY],
    ["model.channel_mult=[1, 2, 3, 0.5]", "model.num_res_blocks=2", "model.num_channels=32"], ["model.channel_mult=[2]"]]


def test_what_is_left_out_has_defaults_that_depend_on_the_rest():
    assert vae_spec("vae.latent_channels=null").vae.latent_channels == 128
    spec = vae_spec("vae.latent_channels=null", "vae.latent=spatial")
    assert spec.vae.latent_channels == 16 and spec.evaluate.reference == "digits"
    assert parse_frozen(dump(spec), "x") == spec


@pytest.mark.parametrize("override, message", [
    ("vae.kl_warmup=13", "vae.kl_warmup: 13 steps are more than train.iterations 12"),
    ("vae.decoder=gaussian", "evaluate.nll_examples: decoder: gaussian has the ELBO of a density, which compares with"),
    ("evaluate.nll_data=null", "evaluate.nll_data: nll_examples needs a held-out data set"),
    ("sample.compile=default", "sample.compile: has no effect: a sample is one evaluation of the decoder"),
    ("model.channel_mult=[1, 1, 1, 1, 1]", "data.image_size: 8 cannot be halved 4 times"),
    ("model.channel_mult=[0.01]", "model.channel_mult: a level has less than one channel"),
    ("model.channel_mult=null", "model.channel_mult: there is a default only for image_size 32, 64, 256"),
    ("train.gradient_checkpointing=[2]", "train.gradient_checkpointing: 2 is not a resolution of this network; it has 8, 4"),
    ("vae.latent=map", "vae.latent: must be 'spatial' or 'vector' (got map)"),
    ("vae.decoder=laplace", "vae.decoder: must be 'discretized_gaussian' or 'gaussian' (got laplace)"),
    ("vae.latent_channels=0", "vae.latent_channels: must be at least 1"),
    ("model.num_heads=4", "model.num_heads: belongs to kind: diffusion"),
    ("evaluate.respacings=[5]", "evaluate.respacings: belongs to kind: diffusion"),
])
def test_what_an_autoencoder_cannot_be_is_refused(override, message):
    with pytest.raises(UserError) as refused:
        vae_spec(override)
    assert message in str(refused.value)


def test_the_accuracy_of_labels_needs_classes():
    with pytest.raises(UserError, match="evaluate.metrics: label_accuracy needs samples of requested classes"):
        vae_spec("data.class_cond=false", "evaluate.metrics=[label_accuracy]", "evaluate.features=classifier")


@pytest.mark.parametrize("overrides", SHAPES)
def test_its_layers_are_counted_as_torch_counts_them(overrides):
    spec = vae_spec(*overrides)
    network, layers = model_of(spec).network(spec), kind_of(spec).layers(spec)
    y = torch.zeros(3, dtype=torch.int64) if spec.data.class_cond else None
    for half, name, given in ((network.encoder, "encoder", torch.zeros(3, 1, 8, 8)),
                              (network.decoder, MODEL, torch.zeros(3, *network.latent_shape))):
        with FlopCounterMode(display=False) as counter:
            half(given, y)
        assert 3 * sum(layer.flops for layer in layers[name]) == counter.get_total_flops()
    counted = [*layers["encoder"], *layers[MODEL]]
    for layer in counted:
        there = [value for key, value in network.state_dict().items() if f"{key}.".startswith(f"{layer.name}.")]
        assert (layer.parameters, layer.tensors) == (sum(value.numel() for value in there), len(there)), layer.name
    assert run_cost(spec).parameters == sum(value.numel() for value in network.parameters())
    assert run_cost(spec).tensors == len(network.state_dict())
    order = list(dict.fromkeys(next(layer.name for layer in counted if f"{key}.".startswith(f"{layer.name}."))
                               for key in network.state_dict()))
    assert [layer.name for layer in counted] == order


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("overrides", SHAPES)
def test_the_memory_of_training_is_what_autograd_keeps(overrides, precision):
    spec = vae_spec("train.batch_size=32", f"train.precision={precision}", *overrides)
    kind, storages = model_of(spec).trainable(spec, torch.device("cpu")), {}
    labels = torch.zeros(32, dtype=torch.int64) if spec.data.class_cond else None
    inputs = kind.inputs(Examples(torch.zeros(32, 1, 8, 8), labels), Draw(0, 0, 32, slice(0, 32), torch.device("cpu")))

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.float16, enabled=precision == "fp16"):
            loss = kind.losses(MODEL, kind.networks, inputs)["loss"]
    parameters = {parameter.untyped_storage().data_ptr() for parameter in kind.network.parameters()}
    assert loss.requires_grad
    kept = sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in parameters)
    memory = run_cost(spec).training_memory
    assert memory.activations + memory.half_parameters == pytest.approx(kept, rel=0.05)
