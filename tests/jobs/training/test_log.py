"""What training logs: means of losses by quarter of the noise levels, the tags in TensorBoard, the loss scale of fp16."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_training import events, scalars

from jobs.training.loss_statistics import LossStatistics

CPU = torch.device("cpu")


def test_losses_are_averaged_by_quarter_of_the_noise_levels_with_their_weights(group):
    statistics, one = LossStatistics(["loss", "mse"], CPU), torch.ones(2)

    def add(loss, mse, quarter, weights):
        statistics.add({"loss": torch.tensor(loss), "mse": torch.tensor(mse)},
                       SimpleNamespace(quarter=torch.tensor(quarter), weights=weights))
    add([1.0, 2.0], [10.0, 20.0], [0, 3], one)
    add([4.0, 5.0], [30.0, 40.0], [0, 1], 2 * one)
    assert statistics.collect() == {"loss": 21 / 4, "loss_q0": 4.5, "loss_q1": 10.0, "loss_q3": 2.0,
                                    "mse": 170 / 4, "mse_q0": 35.0, "mse_q1": 80.0, "mse_q3": 20.0}
    add([1.0, 1.0], [1.0, 1.0], [2, 2], one)
    assert statistics.collect() == {"loss": 1.0, "loss_q2": 1.0, "mse": 1.0, "mse_q2": 1.0}


def test_losses_without_noise_levels_have_one_mean(group):
    statistics = LossStatistics(["loss"], CPU)
    for losses in ([1.0, 2.0], [3.0, 6.0]):
        statistics.add({"loss": torch.tensor(losses)}, SimpleNamespace(quarter=None, weights=torch.ones(2)))
    assert statistics.collect() == {"loss": 3.0}


def test_tensorboard_shows_these_tags_at_these_steps(make_run, alone):
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
def test_other_objectives_log_their_own_terms(make_run, alone, loss, keys):
    run = make_run("train.iterations=2", f"diffusion.loss={loss}", "diffusion.diffusion_steps=4")
    assert alone(run, "train") == "done"
    assert set(events(run).Tags()["scalars"]) & {"loss", "mse", "vb", "loss_scale"} == keys


@pytest.mark.slow
def test_fp16_scales_its_loss(make_run, alone):
    run = make_run("train.iterations=30", "train.precision=fp16", "train.log_interval=1", "train.save_interval=30",
                   "diffusion.diffusion_steps=4")
    assert alone(run, "train") == "done"
    scales, losses = scalars(run, "loss_scale"), list(scalars(run, "loss").values())
    assert len(scales) == 30 and all(np.log2(scale) % 1 == 0 for scale in scales.values())
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
