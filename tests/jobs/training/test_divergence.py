"""Training that ends in skipped steps, or in weights that are not finite, has diverged and saves nothing as good."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from small_checkpoints import steps_of
from small_training import events

from jobs.errors import StageFailed
from jobs.kinds.diffusion.trainable import DiffusionTrainable
from jobs.run.checkpoints import newest_checkpoint, save_checkpoint
from jobs.spec.kinds import MODEL
from jobs.storage.files import read_json
from jobs.training.divergence import LAST_BAD_LOSSES, LAST_BAD_STEPS, MAX_BAD_STEPS, check_steps, check_weights
from jobs.training.state import new_state
from jobs.training.step import StepResult

FINITE = StepResult(None, {"loss": torch.ones(2)}, {})
NAN = StepResult(None, {"loss": torch.tensor([1.0, float("nan")])}, {})


def skipped_at(run, step):
    return read_json(run.checkpoints / f"step-{step:08}" / "manifest.json")["skipped_steps"]


def state_with(run, group, bad_steps, skipped):
    state = new_state(run.spec, group)
    state.parts[MODEL].bad_steps.fill_(bad_steps)
    state.parts[MODEL].skipped.fill_(skipped)
    return state


def test_fp16_is_advised_to_try_bf16(make_run, group):
    run = make_run("train.precision=fp16", "train.iterations=100")
    check_steps(run, state_with(run, group, MAX_BAD_STEPS - 1, 60), NAN, 80, 60)
    with pytest.raises(StageFailed, match=r"\(step 80\).*step 60\. .*precision: bf16"):
        check_steps(run, state_with(run, group, MAX_BAD_STEPS, 60), FINITE, 80, 60)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("iterations, bad_steps, skipped, result, message", [
    (1000, 0, 0, FINITE, None),
    (1000, 0, 30, FINITE, None),  # now and then
    (1000, LAST_BAD_STEPS - 1, 30, FINITE, None),  # an overflow at the very end
    (1000, LAST_BAD_STEPS, 30, FINITE, "gradient was not finite in the last 10 of 1000 steps"),
    (1000, LAST_BAD_LOSSES - 1, 2, NAN, None),
    (1000, LAST_BAD_LOSSES, 3, NAN, "loss was not finite in the last 3 of 1000 steps"),
    (6, 1, 1, NAN, "loss was not finite in the last 1 of 6 steps"), (6, 0, 0, NAN, None),
    (30, 4, 4, FINITE, "the last 4 of 30"), (30, 3, 3, FINITE, None), (2, 1, 1, FINITE, "the last 1 of 2"),
])
def test_how_training_ends_decides(make_run, group, precision, iterations, bad_steps, skipped, result, message):
    run = make_run(f"train.iterations={iterations}", f"train.precision={precision}")
    state = state_with(run, group, bad_steps, skipped)
    check_steps(run, state, result, iterations - 1, 0)
    if message is None:
        check_steps(run, state, result, iterations, 0)
        return
    with pytest.raises(StageFailed, match=f"{message}.*there is no checkpoint. Try a lower train.lr") as failure:
        check_steps(run, state, result, iterations, 0)
    assert failure.value.kind == "diverged" and str(run.path) in str(failure.value)


@pytest.mark.parametrize("precision, fails", [("fp32", True), ("bf16", True), ("fp16", False)])
def test_most_steps_skipped_is_divergence_except_while_fp16_finds_its_scale(make_run, group, precision, fails):
    run = make_run("train.iterations=40", f"train.precision={precision}")
    state = state_with(run, group, 0, 21)
    if not fails:
        return check_steps(run, state, FINITE, 40, 20)
    with pytest.raises(StageFailed, match="21 of 40 steps were skipped"):
        check_steps(run, state, FINITE, 40, 20)


@pytest.mark.parametrize("of", ["weights", "average"])
def test_weights_that_are_not_finite_are_named(make_run, group, of):
    run = make_run()
    state = new_state(run.spec, group)
    check_weights(run, state, 4, 0)
    tensors = state.parts[MODEL].network.state_dict() if of == "weights" else state.parts[MODEL].averages["0.9"]
    tensors["time_embed.0.weight"][0, 0] = float("inf")
    with pytest.raises(StageFailed, match=r"step 4 are not finite \(time_embed.0.weight: 1 of 256 values .* \(inf\)\)"):
        check_weights(run, state, 4, 0)


@pytest.mark.parametrize("lr, iterations", [("1e25", 30), ("1e12", 6), ("1e38", 2)])
def test_a_short_training_that_diverges_leaves_nothing_to_sample(make_run, alone, lr, iterations):
    run = make_run(f"train.lr={lr}", f"train.iterations={iterations}", "train.save_interval=1000")
    for _ in range(2):  # run again, it fails again
        with pytest.raises(StageFailed) as failure:
            alone(run, "train")
        assert failure.value.kind == "diverged"
        assert not run.checkpoints.exists() and not run.is_done("train")


def test_a_checkpoint_is_not_written_with_weights_that_are_not_finite(make_run, alone):
    run = make_run("train.lr=3e38", "train.iterations=8", "train.save_interval=1", "train.grad_clip=1e-30")
    with pytest.raises(StageFailed, match="not finite"):
        alone(run, "train")
    saved = [load_file(folder / "model.safetensors") for folder in run.checkpoint_folders()]
    assert 8 not in steps_of(run) and all(torch.isfinite(tensor).all() for weights in saved for tensor in weights.values())


def test_skipped_steps_are_counted_across_a_resume(make_run, alone, monkeypatch):
    losses = DiffusionTrainable.losses
    calls = []

    def sometimes_nan(self, update, networks, inputs):
        calls.append(1)
        found = losses(self, update, networks, inputs)
        return {key: value * float("nan") if len(calls) % 5 == 4 else value for key, value in found.items()}
    monkeypatch.setattr(DiffusionTrainable, "losses", sometimes_nan)
    run = make_run("train.iterations=12", "train.log_interval=100")
    assert alone(run, "train") == "done"
    assert skipped_at(run, 12) == 2  # updates 2 and 7: two calls come before training, one before the last update
    for step in (8, 12):
        shutil.rmtree(run.checkpoints / f"step-{step:08}")
    calls[:] = [1] * 5
    assert alone(run, "train") == "done"
    assert skipped_at(run, 12) == 1 + 1  # update 2 before the resume, update 6 after it


def test_a_preview_that_is_not_finite_is_a_note_and_no_black_picture(make_run, alone, monkeypatch, capsys):
    previews = DiffusionTrainable.previews

    def broken(self, averages):
        bad = {name: {key: value.clone() for key, value in each.items()} for name, each in averages.items()}
        bad[MODEL]["out.2.bias"][0] = float("nan")
        return previews(self, bad)
    monkeypatch.setattr(DiffusionTrainable, "previews", broken)
    run = make_run("train.iterations=4")
    assert alone(run, "train") == "done"
    assert "note: no sample grids in TensorBoard after step 4: pictures of values that are not finite" in capsys.readouterr().out
    assert "samples_ema_0.9" not in events(run).Tags()["images"] and "noising" in events(run).Tags()["images"]


@pytest.mark.parametrize("name", ["model.safetensors", "ema-0.9.safetensors"])
def test_a_checkpoint_of_an_earlier_version_that_is_not_finite_is_not_trained_on(make_run, alone, name):
    run = make_run("train.iterations=8")
    alone(run, "train")
    checkpoint = newest_checkpoint(run)
    weights = {None: checkpoint.weights(None), "0.9": checkpoint.weights("0.9")}
    bad = weights[None if name.startswith("model") else "0.9"]
    bad["out.2.bias"][0] = float("nan")
    save_checkpoint(run, 4, {MODEL: weights}, checkpoint.training_state())
    shutil.rmtree(run.checkpoint_folder(8))
    with pytest.raises(StageFailed, match=f"step-00000004/{name}: out.2.bias: 1 of 2 values are not finite") as failure:
        alone(run, "train")
    assert failure.value.kind == "diverged"
