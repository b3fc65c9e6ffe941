"""What a spec says of its objective: weights of the squared error, and noise that is added to the inputs."""

import pytest
import torch
from small_training import DIGITS, train_some, weights

from diffusion.losses import training_losses
from jobs.kinds.protocol import Draw
from jobs.sampling.chunks import sampling_settings
from jobs.spec.kinds import MODEL
from jobs.training.batches import Batches
from jobs.training.state import new_state


def first_inputs(run, group, **draw):
    state = new_state(run.spec, group)
    examples = next(Batches(run.spec, DIGITS, group)(0, 1))
    return state, state.kind.inputs(examples, Draw(run.spec.train.seed, 0, 12, slice(0, 12), group.device))


def test_the_perturbation_is_a_stream_of_its_own(make_run, group):
    _, plain = first_inputs(make_run(folder="plain"), group)
    state, inputs = first_inputs(make_run("diffusion.input_perturbation=0.1", folder="perturbed"), group)
    assert plain.input_noise is None
    assert torch.equal(inputs.noise, plain.noise) and torch.equal(inputs.t, plain.t)
    drawn = (inputs.input_noise - inputs.noise) / 0.1
    assert abs(drawn.mean()) < 0.1 and drawn.std() == pytest.approx(1, abs=0.1)
    assert abs((drawn * inputs.noise).mean()) < 0.1  # not the noise again

    networks = state.callables("")
    losses = state.kind.losses(MODEL, networks, inputs)
    expected = training_losses(state.kind.diffusion, networks[MODEL], inputs.x_start, inputs.t, inputs.noise, "hybrid",
                               {"y": inputs.labels}, input_noise=inputs.input_noise)
    torch.testing.assert_close(losses, expected)


def test_every_rank_keeps_its_share_of_the_perturbation(make_run, group):
    run = make_run("diffusion.input_perturbation=0.1")
    state = new_state(run.spec, group)
    examples = next(Batches(run.spec, DIGITS, group)(0, 1))
    whole, half = (state.kind.inputs(type(examples)(examples.images[share], examples.labels[share]),
                                     Draw(0, 0, 12, share, group.device)) for share in (slice(0, 12), slice(6, 12)))
    assert torch.equal(half.input_noise, whole.input_noise[6:])


@pytest.mark.parametrize("setting", ["diffusion.loss_weight=min_snr", "diffusion.loss_weight=p2",
                                     "diffusion.input_perturbation=0.1"])
def test_an_objective_changes_the_weights_that_are_trained(make_run, group, setting):
    plain, changed = (weights(train_some(make_run(*overrides, folder=folder), group, 2)[0])
                      for folder, overrides in (("plain", ()), ("changed", (setting,))))
    assert any(not torch.equal(plain[key], changed[key]) for key in plain)


def test_a_setting_without_effect_changes_no_bit(make_run, group):
    plain, same = (weights(train_some(make_run(*overrides, folder=folder), group, 2)[0]) for folder, overrides in (
        ("plain", ()), ("same", ("diffusion.loss_weight=none", "diffusion.input_perturbation=0"))))
    assert all(torch.equal(plain[key], same[key]) for key in plain)


def test_samples_depend_on_the_objective_by_their_weights_alone(make_run):
    plain = sampling_settings(make_run(folder="plain").spec, "ab")
    for number, changed in enumerate((
            ["diffusion.loss_weight=min_snr", "diffusion.min_snr_gamma=3"],
            ["diffusion.loss_weight=p2", "diffusion.p2_gamma=0.5", "diffusion.p2_k=2"], ["diffusion.input_perturbation=0.1"])):
        assert sampling_settings(make_run(*changed, folder=str(number)).spec, "ab") == plain
    assert sampling_settings(make_run("diffusion.predict=v", folder="v").spec, "ab") != plain
