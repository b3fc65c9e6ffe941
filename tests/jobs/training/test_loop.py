"""The training stage: one update, what the ranks share, what is logged, and how it refuses and fails."""

import copy
import os
import shutil

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.parallel import DistributedDataParallel

from jobs.data.dataset import open_data
from jobs.errors import StageFailed, UserError
from jobs.kinds.diffusion.sections import DiffusionTrain
from jobs.parallel.group import Group, process_group
from jobs.run.board import Tally
from jobs.storage.files import read_json
from jobs.training.batches import Batches
from jobs.training.loop import MAX_BAD_STEPS, Learner, check_progress, new_learner, train, train_step
from jobs.training.step import apply_gradients, lr_at

DIGITS = open_data("digits", 8, 1, 10)
CPU = torch.device("cpu")


@pytest.fixture
def group(tmp_path):
    """A group of one in this process; DistributedDataParallel works in it as in a larger one."""
    with process_group(tmp_path / "meeting", threads=1) as group:
        yield group


def train_some(run, group: Group, steps: int) -> tuple[Learner, list[float]]:
    """A learner after `steps` updates, and the norm of each update's gradient."""
    learner = new_learner(run.spec, group)
    batches = Batches(run.spec, DIGITS, learner.sampler, group)(0, steps)
    return learner, [train_step(learner, batch, step)[1].item() for step, batch in enumerate(batches)]


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in learner.network.state_dict().items()}


def events(run) -> EventAccumulator:
    return EventAccumulator(str(run.tensorboard), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def scalars(run, tag: str) -> dict[int, float]:
    return {event.step: event.value for event in events(run).Scalars(tag)}


# One update


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
    learner = new_learner(run.spec, group)
    for step, batch in enumerate(Batches(run.spec, DIGITS, learner.sampler, group)(0, 2)):
        before = weights(learner)
        train_step(learner, batch, step)
        if step == 0:  # Adam's first update is lr times the gradient's sign
            moved = max((value - before[key]).abs().max().item() for key, value in weights(learner).items())
            assert moved == pytest.approx(1e-2 / 10, rel=1e-3)
    assert [part["lr"] for part in learner.optimizer.param_groups] == [pytest.approx(1e-2 * 2 / 10 * 19 / 20)]


def test_the_average_follows_the_weights_at_its_rate(make_run, group):
    run = make_run("train.ema_rate=[0.9, 0.5]")
    learner = new_learner(run.spec, group)
    for step, batch in enumerate(Batches(run.spec, DIGITS, learner.sampler, group)(0, 3)):
        before = copy.deepcopy(learner.emas)
        train_step(learner, batch, step)
        for rate, average in learner.emas.items():
            expected = {key: rate * before[rate][key] + (1 - rate) * value for key, value in weights(learner).items()}
            torch.testing.assert_close(average, expected)


@pytest.mark.parametrize("sampler", ["uniform", "loss-second-moment"])
def test_microbatches_add_up_to_the_batch(make_run, group, sampler):
    common = (f"train.schedule_sampler={sampler}", "diffusion.diffusion_steps=4", "train.grad_clip=0.5")
    whole, whole_norms = train_some(make_run(*common, folder="whole"), group, 8)
    parts, parts_norms = train_some(make_run(*common, "train.microbatch=3", folder="parts"), group, 8)
    np.testing.assert_allclose(parts_norms, whole_norms, rtol=1e-3)
    # Adam makes much of a gradient that is nothing but rounding; what a weight moves in 8 steps is 8e-3.
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-3, atol=5e-4)
    if sampler != "uniform":
        assert whole.sampler.warmed_up and parts.sampler.warmed_up
        np.testing.assert_allclose(parts.sampler.history, whole.sampler.history, rtol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing, again", [("true", {8, 4}), ("[4]", {4}), ("[8]", {8})])
def test_gradient_checkpointing_changes_nothing_although_there_is_dropout(make_run, group, precision, checkpointing, again):
    common = ("model.dropout=0.3", f"train.precision={precision}")
    plain, _ = train_some(make_run(*common, folder="plain"), group, 4)

    calls = {}
    run = make_run(*common, f"train.gradient_checkpointing={checkpointing}", folder="checkpointed")
    learner = new_learner(run.spec, group)
    assert isinstance(learner.ddp, DistributedDataParallel)
    blocks = {8: learner.network.output_blocks[-1][0], 4: learner.network.output_blocks[0][0]}
    for resolution, block in blocks.items():
        calls[resolution] = []
        block.in_layers[0].register_forward_pre_hook(lambda *arguments, seen=calls[resolution]: seen.append(1))
    for step, batch in enumerate(Batches(run.spec, DIGITS, learner.sampler, group)(0, 4)):
        train_step(learner, batch, step)
    # Once forward, and once again on the way back.
    assert {resolution: len(seen) for resolution, seen in calls.items()} == {
        resolution: 8 if resolution in again else 4 for resolution in blocks}
    torch.testing.assert_close(weights(learner), weights(plain), rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_left_out(make_run, group, precision, value):
    learner, _ = train_some(make_run(f"train.precision={precision}", "train.grad_clip=1.0"), group, 2)
    assert learner.bad_steps == 0
    gradients = [parameter.grad.clone() for parameter in learner.parameters]
    before = weights(learner)
    state = {key: {name: entry.clone() for name, entry in part.items()}
             for key, part in learner.optimizer.state_dict()["state"].items()}

    for bad in (1, 2):
        for parameter in learner.parameters:
            parameter.grad.fill_(0.1)
        learner.parameters[3].grad.view(-1)[0] = value
        assert not torch.isfinite(apply_gradients(learner))
        assert learner.bad_steps == bad
    torch.testing.assert_close(weights(learner), before, rtol=0, atol=0)
    torch.testing.assert_close(learner.optimizer.state_dict()["state"], state, rtol=0, atol=0)

    for parameter, gradient in zip(learner.parameters, gradients):
        parameter.grad.copy_(gradient + 0.1)
    apply_gradients(learner)
    assert learner.bad_steps == 0
    assert all((value != before[key]).any() for key, value in weights(learner).items())


def test_clipping_is_by_the_norm_of_the_whole_gradient(make_run, group):
    learner, _ = train_some(make_run("train.grad_clip=0.5"), group, 1)
    for parameter in learner.parameters:
        parameter.grad.fill_(2.0)
    count = sum(parameter.numel() for parameter in learner.parameters)
    assert apply_gradients(learner).item() == pytest.approx(2 * count ** 0.5)  # as it was before clipping
    for parameter in learner.parameters:
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter.grad, 0.5 / count ** 0.5))


# What ranks share


def test_two_ranks_learn_what_one_does_and_one_may_take_over(make_run, ranks, alone, tmp_path):
    common = ("train.iterations=50", "train.log_interval=1", "train.save_interval=25", "diffusion.diffusion_steps=20")
    single, double = make_run(*common, folder="single"), make_run(*common, "train.microbatch=3", folder="double")
    assert alone(single, "train") == "done"
    assert ranks(double, "train", 2) == 0
    one, two = scalars(single, "loss"), scalars(double, "loss")
    assert list(one) == list(two) == list(range(1, 51))
    np.testing.assert_allclose(list(two.values()), list(one.values()), atol=1e-4, rtol=0)
    assert one[50] < 0.7 * one[1]

    shutil.rmtree(double.checkpoints / "step-00000050")
    assert alone(double, "train") == "done"
    taken_over = scalars(double, "loss")
    assert [taken_over[step] for step in range(1, 26)] == [two[step] for step in range(1, 26)]
    np.testing.assert_allclose(list(taken_over.values()), list(one.values()), atol=1e-4, rtol=0)


# What is logged


def test_losses_are_tallied_by_quartile_of_t_with_their_weights(group):
    tally, one = Tally(["loss", "mse"], 8, CPU), torch.ones(2)
    tally.add({"loss": torch.tensor([1.0, 2.0]), "mse": torch.tensor([10.0, 20.0])}, torch.tensor([0, 7]), one)
    tally.add({"loss": torch.tensor([4.0, 5.0]), "mse": torch.tensor([30.0, 40.0])}, torch.tensor([1, 2]), 2 * one)
    assert tally.collect() == {"loss": 21 / 4, "loss_q0": 4.5, "loss_q1": 10.0, "loss_q3": 2.0,
                               "mse": 170 / 4, "mse_q0": 35.0, "mse_q1": 80.0, "mse_q3": 20.0}
    tally.add({"loss": one, "mse": one}, torch.tensor([4, 5]), one)
    assert tally.collect() == {"loss": 1.0, "loss_q2": 1.0, "mse": 1.0, "mse_q2": 1.0}


def test_what_tensorboard_shows(make_run, alone):
    run = make_run("train.iterations=5", "train.log_interval=2", "train.save_interval=4", "diffusion.diffusion_steps=4",
                   "train.warmup=10", "train.lr=1e-2")
    assert alone(run, "train") == "done"
    log = events(run)
    tags = log.Tags()
    measured = ("loss", "mse", "vb", "grad_norm", "images_per_second", "memory_gib")
    quartiles = {f"{key}_q{q}" for key in ("loss", "mse", "vb") for q in range(4)}
    assert set(tags["scalars"]) == {*measured, "samples", "lr", "gradient_noise_scale"} | quartiles
    for tag in measured:
        values = {event.step: event.value for event in log.Scalars(tag)}
        assert list(values) == [2, 4, 5] and all(0 < value < float("inf") for value in values.values())
    assert scalars(run, "samples") == {2: 24, 4: 48, 5: 60}
    assert scalars(run, "lr") == {step: pytest.approx(1e-2 * step / 10) for step in (2, 4, 5)}
    loss, mse, vb = (scalars(run, tag)[5] for tag in ("loss", "mse", "vb"))
    assert loss == pytest.approx(mse + vb, rel=1e-5)

    shown = {tag: [event.step for event in log.Images(tag)] for tag in tags["images"]}
    assert shown == {"samples_ema_0.9": [4, 5], "denoising": [4, 5], "noising": [0]}
    (text,) = log.Tensors("spec/text_summary")
    assert b"iterations: 5" in text.tensor_proto.string_val[0]


@pytest.mark.parametrize("loss, keys", [("simple", {"loss", "mse"}), ("vlb", {"loss"})])
def test_other_objectives_log_what_they_have(make_run, alone, loss, keys):
    run = make_run("train.iterations=2", f"diffusion.loss={loss}", "diffusion.diffusion_steps=4")
    assert alone(run, "train") == "done"
    assert set(events(run).Tags()["scalars"]) & {"loss", "mse", "vb", "loss_scale"} == keys


def test_fp16_scales_its_loss(make_run, alone):
    run = make_run("train.iterations=30", "train.precision=fp16", "train.log_interval=1", "train.save_interval=30",
                   "diffusion.diffusion_steps=4")
    assert alone(run, "train") == "done"
    scales, losses = scalars(run, "loss_scale"), list(scalars(run, "loss").values())
    assert len(scales) == 30 and all(np.log2(scale) % 1 == 0 for scale in scales.values())
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


# Refusing and failing


def test_divergence_ends_the_stage_with_advice_and_leaves_a_sound_checkpoint(make_run, alone):
    run = make_run("train.lr=1e30", "train.iterations=200", "train.log_interval=4", "train.save_interval=8",
                   "diffusion.diffusion_steps=4")
    with pytest.raises(StageFailed) as failure:
        alone(run, "train")
    checkpoints = sorted(folder.name for folder in run.checkpoints.iterdir())
    saved, step = int(checkpoints[-1].removeprefix("step-")), max(scalars(run, "loss"))
    message = str(failure.value)
    assert str(run.path) in message and f"the last checkpoint is of step {saved}." in message
    assert message.endswith("Try a lower train.lr, train.grad_clip or train.warmup, under another name.")
    failed_at = int(message.split("(step ")[1].split(")")[0])
    assert MAX_BAD_STEPS < failed_at <= MAX_BAD_STEPS + 8 and step == failed_at - 4  # the first steps were good
    for name in ("model", "ema-0.9"):
        tensors = load_file(run.checkpoints / checkpoints[-1] / f"{name}.safetensors")
        assert all(torch.isfinite(value).all() for value in tensors.values())
    assert read_json(run.progress)["state"] == "failed"

    with pytest.raises(StageFailed) as again:  # the count goes on too
        alone(run, "train")
    assert str(again.value) == message


def test_fp16_is_advised_to_try_bf16(make_run, group):
    run = make_run("train.precision=fp16")
    learner = new_learner(run.spec, group)
    learner.bad_steps.fill_(MAX_BAD_STEPS - 1)
    check_progress(learner, run, 80, 60)
    learner.bad_steps.fill_(MAX_BAD_STEPS)
    with pytest.raises(StageFailed, match=r"\(step 80\).*step 60\. .*precision: bf16"):
        check_progress(learner, run, 80, 60)


def write_images(path, shape):
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros(shape, np.uint8)


@pytest.mark.parametrize("shape, message", [
    (None, "no such file"), ((4, 6, 6, 1), "images are 6x6, but image_size is 8"),
    ((4, 8, 8, 3), "images have 3 channels, but channels is 1"), ((4, 8, 8, 1), "has no /labels")])
def test_unfit_data_is_refused_before_anything_is_written(make_run, alone, tmp_path, shape, message):
    path = tmp_path / "images.h5"
    if shape:
        write_images(path, shape)
    run = make_run(f"data.path={path}")
    before = sorted(run.path.iterdir())
    with pytest.raises(UserError, match=message) as refusal:
        alone(run, "train")
    assert str(path) in str(refusal.value)
    assert sorted(run.path.iterdir()) == before


@pytest.mark.parametrize("override, world_size, message", [
    ("train.batch_size=12", 5, "train.batch_size: 12 cannot be split evenly over 5 ranks"),
    ("train.microbatch=4", 2, "train.microbatch: 4 does not divide the 6 examples of one rank")])
def test_ranks_that_do_not_divide_the_batch_are_refused(make_run, override, world_size, message):
    with pytest.raises(UserError, match=message):
        train(make_run(override), Group(0, world_size, CPU, None), None)


def test_a_second_process_is_kept_off_the_run(make_run, ranks):
    run = make_run()
    with run.exclusively():
        processes = ranks(run, "train", 2, wait=False)
        assert [process.wait() for process in processes] == [2, 2]
    said = "".join((run.path / f"train-{rank}.log").read_text() for rank in range(2))
    assert f"another process is at work on this run (process {os.getpid()} on " in said and "Traceback" not in said
    assert not run.checkpoints.exists() and not run.tensorboard.exists()
