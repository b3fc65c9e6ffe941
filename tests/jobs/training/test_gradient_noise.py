"""The gradient noise scale: the estimate where the truth is known, the gradients, and that measuring changes nothing."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_training import DIGITS

from diffusion.losses import training_losses
from jobs.parallel.group import Group
from jobs.report.board import read_board
from jobs.spec.kinds import MODEL
from jobs.training.batches import Batches
from jobs.training.gradient_noise import GradientNoise, part_size
from jobs.training.state import new_state
from jobs.training.step import part_square

TAG = "gradient_noise_scale"


def test_the_scale_of_gradients_with_a_known_mean_and_covariance():
    random, noise, scales = np.random.default_rng(0), GradientNoise(), []
    truth, deviations = random.normal(size=40), random.uniform(1, 3, size=40)
    for _ in range(4000):
        examples = truth + deviations * random.normal(size=(16, 40))
        part, whole = (np.square(examples[:size].mean(0)).sum() for size in (4, 16))
        scales.append(noise.add(part, 4, whole, 16)[TAG])
    assert np.median(scales) == pytest.approx(np.square(deviations).sum() / np.square(truth).sum(), rel=0.03)


def test_there_is_no_scale_where_the_estimates_have_the_wrong_sign():
    assert GradientNoise().add(1.0, 4, 0.1, 16) == {}  # smaller than noise alone would make it
    assert GradientNoise().add(1.0, 4, 1.1, 16) == {}  # less noise in the smaller batch


@pytest.mark.parametrize("batch_size, share, microbatch, size", [
    (16, 16, None, 8), (16, 16, 4, 4), (16, 8, 8, 4), (4, 1, None, 1), (15, 5, None, 2), (1, 1, None, None)])
def test_the_part_is_smaller_than_the_batch_and_no_larger_than_a_microbatch(batch_size, share, microbatch, size):
    assert part_size(batch_size, share, microbatch) == size


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_gradient_of_a_part_is_computed_beside_training(make_run, group, precision):
    spec = make_run(f"train.precision={precision}").spec
    state = new_state(spec, group)
    examples = next(Batches(spec, DIGITS, group)(0, 1))
    found = part_square(state, examples, 5, 0)
    part, kind, inputs = state.parts[MODEL], state.kind, state.kind.inputs(examples, state.draw(0))
    assert all(parameter.grad is None for parameter in part.parameters)

    loss = training_losses(kind.diffusion, part.network, inputs.x_start[:5], inputs.t[:5], inputs.noise[:5], "hybrid",
                           {"y": inputs.labels[:5]})["loss"].mean()
    loss.backward()
    theirs = sum(parameter.grad.double().square().sum() for parameter in part.parameters).item()
    assert found == pytest.approx(theirs, rel=1e-5 if precision == "fp32" else 0.05)


def test_two_ranks_compare_the_mean_of_their_parts_with_the_whole_batch(make_run, ranks, group):
    run = make_run("train.iterations=1", "train.schedule_sampler=loss-second-moment")
    assert ranks(run, "train", 2) == 0
    state = new_state(run.spec, group)
    mean = 0.0
    for rank in (0, 1):
        state.group = Group(rank, 2, group.device, group.store)
        examples = next(Batches(run.spec, DIGITS, state.group)(0, 1))
        mean += part_square(state, examples, 3, 0)  # divided by two ranks, but summed over this process alone
    logged = read_board(run.tensorboard).scalars
    expected = GradientNoise().add(mean, 3, logged["grad_norm"][1] ** 2, 12)
    assert expected and logged[TAG][1] == pytest.approx(expected[TAG], rel=1e-3)


@pytest.mark.slow
def test_training_does_not_depend_on_how_often_noise_is_measured(make_run, alone):
    weights = []
    for interval in (1, 12):
        run = make_run(f"train.log_interval={interval}", "model.dropout=0.2", "train.gradient_checkpointing=true",
                       folder=str(interval))
        assert alone(run, "train") == "done"
        weights.append(load_file(run.checkpoints / "step-00000012" / "model.safetensors"))
        assert read_board(run.tensorboard).scalars[TAG]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
