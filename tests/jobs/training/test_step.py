"""One update: learning rate, averages, microbatches, gradient checkpointing, gradients that are not finite, clipping."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_training import DIGITS, train_some, weights
from torch.nn.parallel import DistributedDataParallel

from jobs.kinds.diffusion.sections import DiffusionTrain
from jobs.spec.kinds import MODEL
from jobs.training.batches import Batches
from jobs.training.state import new_state
from jobs.training.step import apply_gradients, lr_at, train_step


def test_the_learning_rate_warms_up_and_falls_to_nothing():
    def rates(**kwargs):
        return [lr_at(step, DiffusionTrain(iterations=8, lr=2.0, **kwargs)) for step in range(8)]
    assert rates() == [2.0] * 8
    assert rates(warmup=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0]
    assert rates(lr_anneal=True) == [2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25]
    assert rates(warmup=4, lr_anneal=True) == [0.5, 0.875, 1.125, 1.25, 1.0, 0.75, 0.5, 0.25]
    assert lr_at(8, DiffusionTrain(iterations=8, lr=2.0, lr_anneal=True)) == 0


def test_the_learning_rate_is_that_of_the_step(make_run, group):
    run = make_run("train.warmup=10", "train.lr=1e-2", "train.lr_anneal=true", "train.iterations=20")
    state = new_state(run.spec, group)
    for step, examples in enumerate(Batches(run.spec, DIGITS, group)(0, 2)):
        before = weights(state)
        train_step(state, examples, step)
        if step == 0:  # Adam's first update is lr times the gradient's sign
            moved = max((value - before[key]).abs().max().item() for key, value in weights(state).items())
            assert moved == pytest.approx(1e-2 / 10, rel=1e-3)
    assert [each["lr"] for each in state.parts[MODEL].optimizer.param_groups] == [pytest.approx(1e-2 * 2 / 10 * 19 / 20)]


def test_the_averages_follow_the_weights_at_their_rates(make_run, group):
    run = make_run("train.ema_rate=[0.9, 0.5]")
    state = new_state(run.spec, group)
    averages = state.parts[MODEL].averages
    assert list(averages) == ["0.9", "0.5"]
    for step, examples in enumerate(Batches(run.spec, DIGITS, group)(0, 3)):
        before = copy.deepcopy(averages)
        train_step(state, examples, step)
        for rate, average in averages.items():
            share = float(rate)
            expected = {key: share * before[rate][key] + (1 - share) * value for key, value in weights(state).items()}
            torch.testing.assert_close(average, expected)


@pytest.mark.parametrize("sampler", ["uniform", "loss-second-moment"])
def test_microbatches_add_up_to_the_batch(make_run, group, sampler):
    common = (f"train.schedule_sampler={sampler}", "diffusion.diffusion_steps=4", "train.grad_clip=0.5", "model.dropout=0.4")
    whole, whole_norms = train_some(make_run(*common, folder="whole"), group, 8)
    parts, parts_norms = train_some(make_run(*common, "train.microbatch=3", folder="parts"), group, 8)
    np.testing.assert_allclose(parts_norms, whole_norms, rtol=1e-3)
    # Adam enlarges a gradient that is only rounding; a weight moves by 8e-3 in 8 steps.
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-3, atol=5e-4)
    if sampler != "uniform":
        ours, theirs = parts.kind.timestep_sampler, whole.kind.timestep_sampler
        assert theirs.warmed_up and ours.warmed_up
        np.testing.assert_allclose(ours.history, theirs.history, rtol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing, again", [("true", {8, 4}), ("[4]", {4}), ("[8]", {8})])
def test_gradient_checkpointing_changes_nothing_although_there_is_dropout(make_run, group, precision, checkpointing, again):
    common = ("model.dropout=0.3", f"train.precision={precision}")
    plain, _ = train_some(make_run(*common, folder="plain"), group, 4)

    calls = {}
    run = make_run(*common, f"train.gradient_checkpointing={checkpointing}", folder="checkpointed")
    state = new_state(run.spec, group)
    part = state.parts[MODEL]
    assert isinstance(part.ddp, DistributedDataParallel)
    blocks = {8: part.network.output_blocks[-1][0], 4: part.network.output_blocks[0][0]}
    for resolution, block in blocks.items():
        calls[resolution] = []
        block.in_layers[0].register_forward_pre_hook(lambda *arguments, seen=calls[resolution]: seen.append(1))
    for step, examples in enumerate(Batches(run.spec, DIGITS, group)(0, 4)):
        train_step(state, examples, step)
    # Once in the forward pass; with checkpointing once more in the backward pass.
    assert {resolution: len(seen) for resolution, seen in calls.items()} == {
        resolution: 8 if resolution in again else 4 for resolution in blocks}
    torch.testing.assert_close(weights(state), weights(plain), rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_neither_weights_nor_optimiser(make_run, group, precision, value):
    run = make_run(f"train.precision={precision}", "train.grad_clip=1.0")
    trained, train = train_some(run, group, 2)[0], run.spec.train
    part = trained.parts[MODEL]
    assert part.bad_steps == 0
    gradients = [parameter.grad.clone() for parameter in part.parameters]
    before = weights(trained)
    state = {key: {name: entry.clone() for name, entry in each.items()}
             for key, each in part.optimizer.state_dict()["state"].items()}

    for bad in (1, 2):
        for parameter in part.parameters:
            parameter.grad.fill_(0.1)
        part.parameters[3].grad.view(-1)[0] = value
        assert not torch.isfinite(apply_gradients(part, train))
        assert part.bad_steps == bad
    torch.testing.assert_close(weights(trained), before, rtol=0, atol=0)
    torch.testing.assert_close(part.optimizer.state_dict()["state"], state, rtol=0, atol=0)

    for parameter, gradient in zip(part.parameters, gradients, strict=True):
        parameter.grad.copy_(gradient + 0.1)
    apply_gradients(part, train)
    assert part.bad_steps == 0
    assert all((value != before[key]).any() for key, value in weights(trained).items())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_averages_do_not_move_on_a_skipped_step(make_run, group, precision):
    run = make_run("train.ema_rate=[0.9, 0.5]", f"train.precision={precision}")
    state, part = new_state(run.spec, group), None
    batches = list(Batches(run.spec, DIGITS, group)(0, 5))
    for step in (0, 1, 2):
        train_step(state, batches[step], step)
    part = state.parts[MODEL]
    before, trained, skipped = copy.deepcopy(part.averages), weights(state), int(part.skipped)
    bad = replace(batches[3], images=torch.full_like(batches[3].images, float("nan")))
    assert torch.isnan(train_step(state, bad, 3).losses["loss"]).all()
    torch.testing.assert_close(part.averages, before, rtol=0, atol=0)
    torch.testing.assert_close(weights(state), trained, rtol=0, atol=0)
    assert (int(part.bad_steps), int(part.skipped)) == (1, skipped + 1)
    if precision == "fp32":
        train_step(state, batches[4], 4)
        assert (int(part.bad_steps), int(part.skipped)) == (0, skipped + 1)
        assert any((value != before["0.5"][key]).any() for key, value in part.averages["0.5"].items())


def test_clipping_is_by_the_norm_of_the_whole_gradient(make_run, group):
    run = make_run("train.grad_clip=0.5")
    part = train_some(run, group, 1)[0].parts[MODEL]
    for parameter in part.parameters:
        parameter.grad.fill_(2.0)
    count = sum(parameter.numel() for parameter in part.parameters)
    assert apply_gradients(part, run.spec.train).item() == pytest.approx(2 * count ** 0.5)  # as it was before clipping
    for parameter in part.parameters:
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter.grad, 0.5 / count ** 0.5))
