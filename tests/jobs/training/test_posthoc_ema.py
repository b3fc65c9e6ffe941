"""Averages whose length is chosen after training: tracked ones, their snapshots, and what is made of them."""

import copy
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file
from small_checkpoints import continued, same, steps_of, truncate
from small_training import DIGITS, events, weights

from diffusion.posthoc_ema import beta, gamma_of
from jobs.errors import UserError
from jobs.run.checkpoints import checkpoint_at, final_checkpoint
from jobs.run.snapshots import power_average, snapshot_folder
from jobs.spec.kinds import MODEL
from jobs.storage.files import read_json
from jobs.training.batches import Batches
from jobs.training.state import keep_snapshot, new_state, save
from jobs.training.step import train_step

TRACKED = "train.ema_sigma_rel=[0.05, 0.1]"
SHORT = "diffusion.diffusion_steps=4"


def snapshots_of(run) -> list[int]:
    return sorted(int(folder.name.removeprefix("step-")) for folder in (run.path / "snapshots").glob("step-*"))


def everything(run) -> dict[str, dict]:
    """Return copies of all weights in checkpoints and snapshots, by path."""
    return {str(file.relative_to(run.path)): copy.deepcopy(load_file(file)) for folder in ("checkpoints", "snapshots")
            for file in sorted((run.path / folder).rglob("*.safetensors"))}


@pytest.fixture
def trained_to(alone, make_run):
    """trained_to("train.iterations=8", ..., folder="a") -> a trained run with tracked averages."""
    def train(*overrides, folder="runs"):
        run = make_run(TRACKED, SHORT, *overrides, folder=folder)
        assert alone(run, "train") == "done"
        return run
    return train


def test_tracked_averages_follow_the_weights_by_their_rates(make_run, group):
    run = make_run(TRACKED)
    state = new_state(run.spec, group)
    averages = state.parts[MODEL].averages
    assert list(averages) == ["0.9", "sigma_rel-0.05", "sigma_rel-0.1"]
    expected = {each: {key: value.double() for key, value in weights(state).items()} for each in (0.05, 0.1)}
    for step, examples in enumerate(Batches(run.spec, DIGITS, group)(0, 5)):
        train_step(state, examples, step)
        for sigma_rel, average in expected.items():
            share = beta(step + 1, gamma_of(sigma_rel))
            for key, value in weights(state).items():
                average[key] = share * average[key] + (1 - share) * value.double()
    for sigma_rel, average in expected.items():
        for key, value in averages[f"sigma_rel-{sigma_rel}"].items():
            torch.testing.assert_close(value.double(), average[key], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_reconstructed_average_is_the_one_that_training_would_have_tracked(make_run, group):
    run = make_run("train.ema_sigma_rel=[0.05, 0.1]", SHORT, "train.iterations=320", "train.lr=3e-3", "train.ema_rate=[]",
                   "sample.ema_rate=null", folder="two")
    state = new_state(run.spec, group)
    direct = {each: {key: value.double() for key, value in weights(state).items()} for each in (0.03, 0.07, 0.15, 0.2)}
    kept = {}
    for step, examples in enumerate(Batches(run.spec, DIGITS, group)(0, 320), 1):
        train_step(state, examples, step - 1)
        now = weights(state)
        for sigma_rel, average in direct.items():
            share = beta(step, gamma_of(sigma_rel))
            for key, value in now.items():
                average[key].mul_(share).add_(value.double(), alpha=1 - share)
        if step % 20 == 0:
            keep_snapshot(state, run, step)
        if step in (160, 320):
            save(state, run, step)
            kept[step] = copy.deepcopy(direct)

    def error(step, sigma_rel):
        found = power_average(run, checkpoint_at(run, step), sigma_rel)
        wanted, start = kept[step][sigma_rel], kept[step][0.07]
        assert all(value.dtype == torch.float32 for value in found.values()) and found.keys() == wanted.keys()
        far = sum((found[key].double() - wanted[key]).square().sum() for key in wanted) ** 0.5
        return float(far / sum((now[key].double() - start[key]).square().sum() for key in wanted) ** 0.5)
    # As a share of the way from the average to the weights: what the choice of an average is about.
    assert error(320, 0.07) < 0.005 and error(320, 0.15) < 0.02 and error(320, 0.2) < 0.05 and error(320, 0.03) < 0.05
    assert error(160, 0.07) < 0.02


def test_snapshots_are_even_and_kept_for_good_and_named_by_every_checkpoint(trained_to):
    run = trained_to("train.iterations=24", "train.ema_snapshots=8")
    assert snapshots_of(run) == [3, 6, 9, 12, 15, 18, 21, 24] and steps_of(run) == [20, 24]
    manifest = read_json(run.checkpoints / "step-00000020" / "manifest.json")
    assert list(manifest["snapshots"]) == ["3", "6", "9", "12", "15", "18"]
    last = final_checkpoint(run)
    assert list(last.snapshots) == [3, 6, 9, 12, 15, 18, 21, 24]
    assert same(load_file(snapshot_folder(run, 24) / "ema-sigma_rel-0.05.safetensors"), last.weights("sigma_rel-0.05"))
    assert trained_to("train.iterations=3", folder="short").spec.train.ema_snapshots == 16
    assert torch.equal(power_average(run, last, 0.1)["out.2.bias"], last.weights("sigma_rel-0.1")["out.2.bias"])


def test_resumed_training_has_the_same_averages_and_snapshots_to_the_bit(trained_to, alone):
    run = trained_to("train.ema_snapshots=6")
    whole = everything(run)
    for step in (4, 8):
        resumed = continued(run, step, str(step))
        assert alone(resumed, "train") == "done"
        assert same(everything(resumed), whole)
    kept = power_average(run, final_checkpoint(run), 0.07)
    assert same(power_average(resumed, final_checkpoint(resumed), 0.07), kept)


def test_kill_9_neither_loses_nor_doubles_a_snapshot(make_run, ranks):
    settings = (TRACKED, SHORT, "train.iterations=120", "train.ema_snapshots=12", "train.save_interval=15", "model.dropout=0.2")
    unbroken, run = (make_run(*settings, folder=name) for name in ("unbroken", "broken"))
    processes = ranks(run, "train", 2, wait=False)
    for wanted in (2, 7):  # snapshots, each before or after a checkpoint by chance
        deadline = time.monotonic() + 120
        while len(snapshots_of(run)) < wanted:
            assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
            time.sleep(0.002)
        for process in processes:
            process.kill()
            process.wait()
        assert snapshots_of(run)[-1] < 120
        processes = ranks(run, "train", 2, wait=False)
    assert [process.wait() for process in [*processes, *ranks(unbroken, "train", 2, wait=False)]] == [0] * 4
    assert snapshots_of(run) == list(range(10, 121, 10)) == list(final_checkpoint(run).snapshots)
    assert same(everything(run), everything(unbroken))
    assert not list((run.path / "snapshots").glob(".*"))  # nothing half-written is left
    assert same(*(power_average(each, final_checkpoint(each), 0.07) for each in (run, unbroken)))


def test_snapshots_after_the_checkpoint_that_training_resumes_from_are_made_again(trained_to, alone):
    run = trained_to("train.ema_snapshots=6")
    whole = everything(run)
    early = snapshot_folder(run, 2).stat().st_mtime_ns
    truncate(run.checkpoints / "step-00000012" / "model.safetensors")  # falls back to step 8
    stray = shutil.copytree(snapshot_folder(run, 10), snapshot_folder(run, 11))
    truncate(snapshot_folder(run, 10) / "ema-sigma_rel-0.1.safetensors")
    assert alone(run, "train") == "done"
    assert same(everything(run), whole) and not stray.exists() and snapshots_of(run) == [2, 4, 6, 8, 10, 12]
    assert snapshot_folder(run, 2).stat().st_mtime_ns == early  # those before are left alone


def test_a_lost_or_damaged_or_foreign_snapshot_is_named(trained_to):
    run = trained_to("train.iterations=24", "train.ema_snapshots=8")
    other = trained_to("train.iterations=24", "train.ema_snapshots=8", "train.seed=1", folder="other")
    last, folder = final_checkpoint(run), snapshot_folder(run, 6)
    whole = shutil.copytree(folder, run.path / "whole")

    def refused(message):
        with pytest.raises(UserError, match=message):
            power_average(run, last, 0.07)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        assert power_average(run, last, 0.07)
    truncate(folder / "ema-sigma_rel-0.1.safetensors")
    refused(r"step-00000006/ema-sigma_rel-0.1.safetensors: damaged \(its checksum is not the recorded one\); restore it, or")
    shutil.rmtree(folder)
    refused(r"snapshots/step-00000006/manifest.json: cannot be read \(No such file or directory\); restore it, or sample with an")
    shutil.rmtree(folder)
    shutil.copytree(snapshot_folder(other, 6), folder)
    refused("snapshots/step-00000006/manifest.json: damaged")


def test_what_the_snapshots_cannot_give_is_refused_with_what_they_can(trained_to):
    run = trained_to("train.iterations=24", "train.ema_snapshots=8", "sample.at=[4, last]")
    with pytest.raises(UserError, match=r"run: ema_sigma_rel 0.01: 8 snapshots of train.ema_sigma_rel \[0.05, 0.1\], up to "
                                        r"step 24, give 0.04 to 0.17; more train.ema_snapshots give more"):
        power_average(run, final_checkpoint(run), 0.01)
    with pytest.raises(UserError, match="2 snapshots .* up to step 4, give 0.0"):
        power_average(run, checkpoint_at(run, 4), 0.15)
    with pytest.raises(UserError, match="ema_sigma_rel 0.3 is not between 0 and 0.2887"):
        power_average(run, final_checkpoint(run), 0.3)
    for tracked in (0.05, 0.1):  # exactly those of the checkpoint
        assert same(power_average(run, checkpoint_at(run, 4), tracked), checkpoint_at(run, 4).weights(f"sigma_rel-{tracked}"))


def test_a_run_without_such_averages_says_so(make_run, alone):
    run = make_run(SHORT, "train.iterations=4")
    assert alone(run, "train") == "done" and snapshots_of(run) == []
    with pytest.raises(UserError, match=r"step-00000004: ema_sigma_rel 0.07 is made of averages .* and there are none; it has "
                                        "ema-0.9.safetensors, model.safetensors, training.pt"):
        power_average(run, final_checkpoint(run), 0.07)


def test_a_run_may_have_such_averages_alone(trained_to):
    run = trained_to("train.ema_rate=[]", "sample.ema_rate=null", "train.iterations=4")
    assert "samples_ema_sigma_rel-0.05" in events(run).Tags()["images"]  # previews by the first average
    assert {file.name for file in final_checkpoint(run).path.glob("*.safetensors")} == {
        "model.safetensors", "ema-sigma_rel-0.05.safetensors", "ema-sigma_rel-0.1.safetensors"}


def test_a_longer_training_keeps_its_snapshots_and_adds_the_new_ones(trained_to, alone, make_run):
    run = trained_to("train.ema_snapshots=4")
    before, kept = power_average(run, final_checkpoint(run), 0.07), everything(run)
    assert snapshots_of(run) == [3, 6, 9, 12]
    longer = make_run(TRACKED, SHORT, "train.ema_snapshots=4", "train.iterations=24", "sample.at=[12, last]")
    assert alone(longer, "train") == "done"
    assert snapshots_of(longer) == [3, 6, 9, 12, 18, 24]
    assert same(power_average(longer, checkpoint_at(longer, 12), 0.07), before)
    now = everything(longer)
    assert all(same(now[name], content) for name, content in kept.items() if name.startswith("snapshots/"))
    assert power_average(longer, final_checkpoint(longer), 0.07).keys() == before.keys()


def test_a_skipped_step_moves_no_tracked_average(make_run, group):
    run = make_run(TRACKED)
    state = new_state(run.spec, group)
    examples = next(Batches(run.spec, DIGITS, group)(0, 1))
    train_step(state, examples, 0)
    kept = {name: {key: value.clone() for key, value in average.items()}
            for name, average in state.parts[MODEL].averages.items()}
    train_step(state, type(examples)(examples.images * float("nan"), examples.labels), 1)
    assert int(state.parts[MODEL].skipped) == 1 and same(dict(state.parts[MODEL].averages), kept)
