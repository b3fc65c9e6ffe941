"""The training stage: two ranks against one, and how the stage refuses bad input and fails."""

import json
import os
import shutil

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_checkpoints import contents, save_untrained
from small_training import scalars

from jobs.errors import StageFailed, UserError
from jobs.parallel.group import Group
from jobs.storage.files import read_json
from jobs.training.divergence import MAX_BAD_STEPS
from jobs.training.loop import train


def test_two_ranks_learn_as_one_does_and_one_may_continue_their_run(make_run, ranks, alone):
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
    continued = scalars(double, "loss")
    assert [continued[step] for step in range(1, 26)] == [two[step] for step in range(1, 26)]
    np.testing.assert_allclose(list(continued.values()), list(one.values()), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_divergence_ends_the_stage_with_advice_and_leaves_a_checkpoint_of_finite_weights(make_run, alone):
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

    with pytest.raises(StageFailed) as again:  # a resumed run goes on counting
        alone(run, "train")
    assert str(again.value) == message


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
    assert read_json(run.progress)["state"] == "failed"
    run.progress.unlink()  # the report of an attempt, and the only trace
    assert sorted(run.path.iterdir()) == before


@pytest.mark.parametrize("override, world_size, message", [
    ("train.batch_size=12", 5, "train.batch_size: 12 cannot be split evenly over 5 ranks"),
    ("train.microbatch=4", 2, "train.microbatch: 4 does not divide the 6 examples of one rank")])
def test_ranks_that_do_not_divide_the_batch_are_refused(make_run, override, world_size, message):
    with pytest.raises(UserError, match=message):
        train(make_run(override), Group(0, world_size, torch.device("cpu"), None), None)


def test_training_takes_as_many_of_the_granted_ranks_as_share_the_batch_and_goes_on_with_fewer(make_run, ranks):
    settings = ("train.batch_size=8", "resources.train.nodes=1-4", "model.dropout=0.3", "train.save_interval=4")
    whole, run = make_run(*settings, folder="whole"), make_run(*settings, "train.iterations=8", folder="broken")
    assert ranks(whole, "train", 1) == 0
    assert ranks(run, "train", 3) == 0  # two are enough for 8 examples; the third ends well
    logs = [(run.path / f"train-{rank}.log").read_text() for rank in range(3)]
    assert "3 ranks were granted, and training takes 2 of them: the most that share train.batch_size 8 evenly" in logs[0]
    assert "rank 2 is not needed: 2 of 3 ranks share train.batch_size evenly" in logs[2]
    shutil.copytree(run.checkpoints, (longer := make_run(*settings, folder="longer")).checkpoints)
    shutil.copy(run.path / "data.json", longer.path)
    assert ranks(longer, "train", 1) == 0
    assert "resuming from" in (longer.path / "train-0.log").read_text()
    ours, theirs = (contents(each.checkpoints / "step-00000012")["model.safetensors"] for each in (longer, whole))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)
    attempts = [json.loads(line) for line in (run.path / "stages.jsonl").read_text().splitlines()]
    assert [attempt["world_size"] for attempt in attempts] == [2]


@pytest.mark.parametrize("stage", ["sample", "evaluate"])
def test_any_number_of_ranks_samples_and_evaluates(make_run, ranks, stage):
    run = make_run("resources.sample.nodes=1-3", "resources.evaluate.nodes=1-3", "evaluate.metrics=[fid]")
    save_untrained(run, 12)
    if stage == "evaluate":
        assert ranks(run, "sample", 1) == 0
    assert ranks(run, stage, 3) == 0
    assert "granted" not in (run.path / f"{stage}-0.log").read_text()


def test_two_processes_cannot_train_one_run(make_run, ranks):
    run = make_run()
    with run.exclusively():
        processes = ranks(run, "train", 2, wait=False)
        assert [process.wait() for process in processes] == [2, 2]
    said = "".join((run.path / f"train-{rank}.log").read_text() for rank in range(2))
    assert f"another process is at work on this run (process {os.getpid()} on " in said and "Traceback" not in said
    assert not run.checkpoints.exists() and not run.tensorboard.exists()
