"""Runs of a GAN: their losses, penalties and networks on one process and on two, killed, sampled, evaluated, counted."""

import copy

import numpy as np
import pytest
import torch
from noisy_runs import same
from safetensors.torch import load_file
from small_gan import GAN_SPEC, gan_spec
from small_runs import finished, kill_in_training, logs
from small_training import DIGITS, after_steps, events, scalars

from diffusion.baselines.adversarial import discriminator_losses
from jobs.cost.bench.file import Variant
from jobs.cost.bench.measure import accepted, training_variants
from jobs.cost.bench.split import Operations
from jobs.cost.count import run_cost
from jobs.errors import StageFailed, UserError
from jobs.kinds.gan.trainable import GanInputs
from jobs.kinds.protocol import Examples, model_of
from jobs.report.write import report
from jobs.spec.kinds import MODEL, kind_of
from jobs.storage.files import read_json
from jobs.training.batches import Batches
from jobs.training.divergence import check_steps
from jobs.training.state import new_state
from jobs.training.step import TrainingState, train_step

DISCRIMINATOR = "discriminator"


def batches(state: TrainingState, steps: int) -> list[Examples]:
    return list(Batches(state.spec, DIGITS, state.group)(0, steps))


def trained(run, group, steps: int) -> tuple[TrainingState, list[dict[str, float]]]:
    """Return the state after so many updates, and the gradients' norms of each."""
    state = new_state(run.spec, group)
    return state, [{name: norm.item() for name, norm in train_step(state, examples, step).grad_norms.items()}
                   for step, examples in enumerate(batches(state, steps))]


def weights(state: TrainingState) -> dict[str, dict[str, torch.Tensor]]:
    return {name: copy.deepcopy(part.network.state_dict()) for name, part in state.parts.items()}


def relative(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> float:
    """Return how far two networks are from each other, against how far both went."""
    def norm(one, other):
        return sum((one[key].double() - other[key].double()).square().sum().item() for key in one) ** 0.5
    return norm(ours, theirs) / norm(theirs, before)


@pytest.mark.parametrize("loss", ["relativistic", "non_saturating"])
def test_two_ranks_have_equal_bits_and_the_gradients_of_one_batch(make_gan, group, loss):
    run = make_gan(f"gan.loss={loss}")
    state = new_state(run.spec, group)
    start, examples = weights(state), batches(state, 1)[0]
    networks = copy.deepcopy(state.kind.networks)
    first, second = after_steps(run, 2, steps=1)
    for key in ("weights", "averages", "gradients"):
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)

    # The penalties and their gradient by plain autograd on the whole batch, in double precision.
    inputs = state.kind.inputs(examples, state.draw(0))
    generator, discriminator = (networks[name].double() for name in (MODEL, DISCRIMINATOR))
    with torch.no_grad():
        fake = generator(inputs.z_discriminator.double(), inputs.labels)
    found = discriminator_losses(discriminator, inputs.images.double(), fake, loss, 0.3, 0.2, {"y": inputs.labels})
    expected = torch.autograd.grad(found["loss"].mean(), list(discriminator.parameters()))
    one, _ = trained(run, group, 1)
    for gradients in (first["gradients"][DISCRIMINATOR], [each.grad for each in one.parts[DISCRIMINATOR].parameters]):
        for ours, theirs in zip(gradients, expected, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)
    assert any((weights(one)[name][key] != start[name][key]).any() for name in start for key in start[name])


@pytest.mark.parametrize("overrides", [[], ["train.microbatch=3", "train.grad_clip=0.5"]])
def test_two_ranks_train_like_one_up_to_the_order_of_sums(make_gan, group, overrides):
    run, plain = make_gan(*overrides), make_gan(*overrides[1:], folder="plain")
    start = weights(new_state(run.spec, group))
    one, norms = trained(plain, group, 4)
    first, second = after_steps(run, 2, steps=4)
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    for ours, theirs in zip(first["norms"], norms, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    for name, before in start.items():
        assert relative(first["weights"][name], weights(one)[name], before) < 0.02  # Adam enlarges rounding of small gradients


def test_a_killed_run_ends_with_the_same_bits(make_gan, ranks):
    whole, killed = make_gan(folder="whole"), make_gan(folder="killed")
    assert ranks(whole, "train", 2) == 0, logs(whole)
    kill_in_training(killed, ranks)
    assert ranks(killed, "train", 2) == 0, logs(killed)
    files = {file.name for file in whole.checkpoint_folder(12).glob("*.safetensors")}
    assert files == {"model.safetensors", "ema-0.9.safetensors", "discriminator.safetensors"}
    for name in files:
        ours, theirs = (load_file(run.checkpoint_folder(12) / name) for run in (killed, whole))
        assert ours and all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    assert ranks(whole, "sample", 2) == 0, logs(whole)
    assert ranks(killed, "sample", 1) == 0, logs(killed)
    assert same(whole, killed)


def test_each_update_has_latents_of_its_own(make_gan, group):
    state = new_state(make_gan().spec, group)
    examples = batches(state, 1)[0]
    first, again, other = (state.kind.inputs(examples, state.draw(step)) for step in (0, 0, 1))
    assert torch.equal(first.z_generator, again.z_generator) and torch.equal(first.z_discriminator, again.z_discriminator)
    for one, two in ((first.z_generator, first.z_discriminator), (first.z_generator, other.z_generator)):
        assert (one != two).any(dim=1).all() and abs(np.corrcoef(one.flatten(), two.flatten())[0, 1]) < 0.5


def test_both_networks_use_their_own_learning_rate_and_adam_without_momentum(make_gan, group):
    state, _ = trained(make_gan("train.warmup=10"), group, 1)
    rates = {name: part.optimizer.param_groups[0]["lr"] for name, part in state.parts.items()}
    assert rates == {MODEL: pytest.approx(1e-4), DISCRIMINATOR: pytest.approx(2e-4)}
    assert all(part.optimizer.param_groups[0]["betas"] == (0.0, 0.99) for part in state.parts.values())
    assert state.parts[DISCRIMINATOR].ddp is None and not state.parts[DISCRIMINATOR].averages
    same_rate = new_state(make_gan("gan.discriminator_lr=null", folder="same").spec, group)
    assert same_rate.parts[DISCRIMINATOR].lr == same_rate.parts[MODEL].lr == 1e-3


def test_bf16_follows_fp32(make_gan, group):
    start = weights(new_state(make_gan().spec, group))
    exact, norms = trained(make_gan(folder="exact"), group, 3)
    half, half_norms = trained(make_gan("train.precision=bf16", folder="half"), group, 3)
    for ours, theirs in zip(half_norms, norms, strict=True):
        assert ours == pytest.approx(theirs, rel=0.1)
    for name, before in start.items():
        assert 0 < relative(weights(half)[name], weights(exact)[name], before) < 0.6
        assert all(value.dtype == torch.float32 for value in weights(half)[name].values())


def test_an_update_that_is_not_finite_is_skipped_and_a_loss_that_rises_is_no_divergence(make_gan, group):
    run = make_gan()
    state = new_state(run.spec, group)
    start, examples = weights(state), batches(state, 1)[0]
    result = train_step(state, Examples(torch.full_like(examples.images, torch.nan), examples.labels), 0)
    assert not any(norm.isfinite() for norm in result.grad_norms.values())
    torch.testing.assert_close(weights(state), start, rtol=0, atol=0)
    assert [int(part.bad_steps) for part in state.parts.values()] == [1, 1]

    result = train_step(state, examples, 1)
    result.losses["loss"].add_(1e6)  # a discriminator that wins
    check_steps(run, state, result, 2, 0)
    for part in state.parts.values():
        part.bad_steps.fill_(50)
    with pytest.raises(StageFailed, match="not finite in each of the last 50 steps"):
        check_steps(run, state, result, 2, 0)


@pytest.mark.parametrize("overrides", [
    [], ["gan.loss=non_saturating", "gan.r2_gamma=0"], ["gan.r1_gamma=0", "data.class_cond=false"],
    ["model.channel_mult=[1, 2, 3]", "model.num_res_blocks=2", "gan.r1_gamma=0", "gan.r2_gamma=0"]])
def test_its_layers_and_its_step_are_counted_as_torch_counts_them(overrides):
    spec = gan_spec(*overrides)
    kind, layers = model_of(spec).trainable(spec, torch.device("cpu")), kind_of(spec).layers(spec)
    labels = torch.zeros(4, dtype=torch.int64) if spec.data.class_cond else None
    z, images = torch.randn(4, spec.gan.latent_size), torch.randn(4, 1, 8, 8)
    for name, given in ((MODEL, z), (DISCRIMINATOR, images)):
        with Operations() as counted:
            kind.networks[name](given, labels)
        assert 4 * sum(layer.flops for layer in layers[name]) == counted.flops
        assert sum(layer.parameters for layer in layers[name]) == sum(each.numel() for each in kind.networks[name].parameters())
        assert sum(layer.tensors for layer in layers[name]) == len(kind.networks[name].state_dict())
        order = list(dict.fromkeys(layer.name for layer in layers[name]))
        assert list(dict.fromkeys(next(each for each in order if key == each or key.startswith(f"{each}."))
                                  for key in kind.networks[name].state_dict())) == order

    total, inputs = 0, GanInputs(images, z, z, torch.ones(4), labels)
    for update in kind.updates:
        for name, network in kind.networks.items():
            network.requires_grad_(name == update)
        with Operations() as counted:
            kind.losses(update, kind.networks, inputs)["loss"].mean().backward()
        total += counted.flops
    cost = run_cost(spec)
    assert cost.training_step_flops == pytest.approx(total / 4 * spec.train.batch_size, rel=0.01)
    averages = 4 * len(spec.train.ema_rate) * sum(layer.parameters for layer in layers[MODEL])  # none of the discriminator
    assert (cost.training_memory.ema, cost.checkpoint_bytes) == (averages, 4 * 3 * cost.parameters + averages)


@pytest.mark.parametrize("overrides", [[], ["gan.loss=non_saturating", "gan.r2_gamma=0"], ["gan.r1_gamma=0", "gan.r2_gamma=0"],
                                       ["data.class_cond=false", "model.channel_mult=[1, 2, 3]", "model.num_res_blocks=2"]])
def test_what_autograd_keeps_is_counted(overrides):
    spec = gan_spec(*overrides)
    kind, examples = model_of(spec).trainable(spec, torch.device("cpu")), 8
    labels = torch.zeros(examples, dtype=torch.int64) if spec.data.class_cond else None
    z = torch.randn(examples, spec.gan.latent_size)
    inputs = GanInputs(torch.randn(examples, 1, 8, 8), z, z, torch.ones(examples), labels)
    found = {}
    for update in kind.updates:
        for name, network in kind.networks.items():
            network.requires_grad_(name == update)
        own, kept, alive = {each.data_ptr() for network in kind.networks.values() for each in network.parameters()}, {}, []

        def keep(tensor, own=own, kept=kept, alive=alive):
            alive.append(tensor)  # so that no two tensors have the same place
            if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in own:
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
            return tensor
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            kind.losses(update, kind.networks, inputs)
        found[update] = sum(kept.values()) / examples
    counted = run_cost(spec).training_memory.activations / 4 / spec.train.batch_size
    assert counted == pytest.approx(found[DISCRIMINATOR], rel=0.01) and counted >= found[MODEL]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A GAN that was trained, sampled and evaluated in this process; not to be changed."""
    return finished(GAN_SPEC, tmp_path_factory.mktemp("gan"), "train", "sample", "evaluate")


def test_tensorboard_shows_scores_penalties_losses_and_samples(evaluated):
    tags = events(evaluated).Tags()
    own = {f"discriminator/{term}" for term in ("loss", "score_real", "score_fake", "r1", "r2", "grad_norm", "lr")}
    assert own | {"loss", "grad_norm", "lr"} <= set(tags["scalars"])
    assert [scalars(evaluated, tag)[12] for tag in ("discriminator/lr", "lr")] == pytest.approx([2e-3, 1e-3])
    assert all(value > 0 for value in scalars(evaluated, "discriminator/r1").values())
    assert {"data", "samples_ema_0.9"} <= {tag.partition("/")[0] for tag in tags["images"]}


def test_it_has_samples_in_one_evaluation_and_no_likelihood(evaluated):
    found = read_json(evaluated.evaluation)
    assert found["headline"].keys() == {"fid (pixels)"} and "bits_per_dim" not in found
    assert (found["curve"][0]["sampling_steps"], found["curve"][0]["evaluations"]) == (1, 1)
    page = report(evaluated.path.parent).read_text()
    assert "softplus(D_f − D_r)" in page and "Mescheder" in page and "(4 F + 15 F_discriminator) × batch" in page


@pytest.mark.parametrize("override, message", [
    ("train.compile=default", "train.compile: the penalties of a GAN are gradients of gradients"),
    ("train.precision=fp16", "train.precision: fp16 scales the loss"),
    ("train.gradient_checkpointing=true", "train.gradient_checkpointing: the penalties of a GAN need the activations twice"),
    ("train.init_from=x.safetensors", "train.init_from: names weights of the generator alone"),
    ("sample.compile=default", "sample.compile: a sample of a GAN is a single evaluation"),
    ("sample.precision=fp16", "sample.precision: a GAN without normalisation may exceed the range of fp16"),
    ("model.channel_mult=[1, 1, 1, 1, 1]", "data.image_size: 8 cannot be halved 4 times"),
    ("model.channel_mult=[0.01]", "model.channel_mult: a level has less than one channel"),
    ("model.channel_mult=null", "model.channel_mult: there is a default only for image_size 32, 64, 256"),
    ("gan.loss=hinge", "gan.loss: must be 'relativistic' or 'non_saturating' (got hinge)"),
    ("gan.r1_gamma=-1", "gan.r1_gamma: must be at least 0"),
    ("gan.latent_size=0", "gan.latent_size: must be at least 1"),
    ("model.num_heads=4", "model.num_heads: belongs to kind: diffusion"),
    ("evaluate.nll_examples=10", "evaluate.nll_examples: belongs to kind: diffusion"),
    ("train.microbatch=5", "train.microbatch: 5 does not divide the 12 examples"),
])
def test_what_a_gan_cannot_be_is_refused(override, message):
    with pytest.raises(UserError) as refused:
        gan_spec(override)
    assert message in str(refused.value)


def test_bench_measures_only_what_check_accepts():
    variants = training_variants(Variant(work="train", precision="fp32", batch_size=12), ["fp32", "tf32", "bf16", "fp16"], False)
    found = {(each.precision, each.gradient_checkpointing) for each in accepted(gan_spec(), variants)}
    assert found == {("fp32", False), ("tf32", False), ("bf16", False)}
    samplings = [Variant(work="sample", precision=precision, batch_size=4) for precision in ("fp32", "bf16", "fp16")]
    assert accepted(gan_spec(), samplings) == samplings[:2]


def test_the_accuracy_of_labels_needs_classes():
    with pytest.raises(UserError, match="evaluate.metrics: label_accuracy needs samples of requested classes"):
        gan_spec("data.class_cond=false", "evaluate.metrics=[label_accuracy]", "evaluate.features=classifier")


def test_the_description_follows_the_settings():
    found = [kind_of(spec).description(spec) for spec in (
        gan_spec(), gan_spec("gan.loss=non_saturating", "gan.r2_gamma=0", "data.class_cond=false"))]
    assert [each.title for each in found] == ["GAN", "GAN"]
    assert "γ_2 / 2" in found[0].objective and "γ_2" not in found[1].objective and "G(z, y)" in found[0].objective
    assert "Miyato" in found[0].source and "Miyato" not in found[1].source and "Goodfellow" in found[1].source
    assert "4 F_G + 15 F_D" in found[0].training_cost and "4 F_G + 11 F_D" in found[1].training_cost
