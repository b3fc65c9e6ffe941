"""A sample is a function of the weights, the settings, the seed and the index of the sample."""

import json

import h5py
import numpy as np
import pytest
import torch
from noisy_runs import identical, noisy_weights, same, samples, save_weights, trained

from jobs.errors import UserError
from jobs.sampling.gather import check_samples


def test_one_two_and_three_processes_make_the_same_samples(make_run, ranks, alone):
    one, two, three = (trained(make_run(folder=name)) for name in ("one", "two", "three"))
    started = ranks(two, "sample", 2, wait=False) + ranks(three, "sample", 3, wait=False)
    assert alone(one, "sample") == "done"
    assert [process.wait() for process in started] == [0] * 5
    assert same(one, two) and same(one, three)
    made = samples(one)
    assert made["images"].shape == (10, 8, 8, 1) and len(np.unique(made["images"], axis=0)) == 10
    assert made["labels"].tolist() == made["sample_index"].tolist() == list(range(10))
    for run in (one, two, three):
        progress = json.loads(run.progress.read_text())
        assert [progress[key] for key in ("stage", "state", "done", "total")] == ["sample", "done", 120, 120]


def test_half_precision_is_near_to_single_and_its_samples_are_as_repeatable(make_run, ranks, alone):
    runs = {precision: trained(make_run(f"sample.precision={precision}", folder=precision))
            for precision in ("fp32", "bf16", "fp16")}
    made = {}
    for precision, run in runs.items():
        assert alone(run, "sample") == "done"
        made[precision] = samples(run)["images"].astype(int)
    two = trained(make_run("sample.precision=bf16", folder="two"))
    assert ranks(two, "sample", 2) == 0 and same(two, runs["bf16"])
    # With these weights 4 grey levels are much: trained ones are nearer.
    assert 0 < np.abs(made["fp16"] - made["fp32"]).mean() < np.abs(made["bf16"] - made["fp32"]).mean() < 4


def test_samples_of_another_precision_are_foreign(make_run, alone):
    run = trained(make_run())
    assert alone(run, "sample") == "done"
    with h5py.File(run.samples_h5) as file:
        settings = json.loads(file.attrs["settings"])
    settings["sample"]["precision"] = "bf16"
    with pytest.raises(UserError, match="sample.precision fp32 instead of bf16"):
        check_samples(run, settings)


@pytest.mark.parametrize("overrides", [
    (), ("sample.sampler=ddim", "sample.ddim_eta=0.5"), ("sample.timestep_respacing=7",),
    ("sample.sampler=ddim", "sample.timestep_respacing=ddim10", "data.class_cond=false", "data.num_classes=null"),
])
def test_more_samples_leave_those_before_as_they_are(make_run, alone, overrides):
    fewer, more = (trained(make_run(*overrides, f"sample.num_samples={count}", folder=str(count)))
                   for count in (10, 13))
    for run in (fewer, more):
        assert alone(run, "sample") == "done"
    assert identical(samples(fewer), samples(more), count=8)
    # The last chunk is short: the same noise, in another shape of arithmetic.
    ours, theirs = (samples(run)["images"].astype(int) for run in (fewer, more))
    assert np.abs(ours[8:] - theirs[8:10]).max() <= 1
    assert len(np.unique(theirs, axis=0)) == 13


@pytest.mark.slow
def test_settings_show_in_the_samples(make_run, alone):
    changes = [(), ("sample.seed=1",), ("sample.sampler=ddim",), ("sample.sampler=ddim", "sample.ddim_eta=0.5"),
               ("sample.timestep_respacing=7",), ("sample.clip_denoised=false",), ("sample.batch_size=2",),
               ("diffusion.rescale_timesteps=false",), ("diffusion.noise_schedule=linear",),
               ("sample.precision=bf16",), ("sample.precision=fp16",)]
    made = []
    for number, change in enumerate(changes):
        run = trained(make_run("diffusion.diffusion_steps=24", "sample.num_samples=5", *change, folder=str(number)))
        assert alone(run, "sample") == "done"
        made.append(samples(run)["images"])
    for number, images in enumerate(made):
        assert not any(np.array_equal(images, before) for before in made[:number]), changes[number]


def test_neither_dropout_nor_the_global_random_state_has_a_say(make_run, alone):
    plain, dropout = trained(make_run(folder="a")), trained(make_run("model.dropout=0.5", folder="b"))
    assert alone(plain, "sample") == "done"
    torch.manual_seed(123)
    torch.randn(5)
    assert alone(dropout, "sample") == "done"
    assert np.array_equal(samples(plain)["images"], samples(dropout)["images"])


def test_labels_go_round_and_reach_the_network(make_run, alone):
    run = trained(make_run("sample.num_samples=5", "data.num_classes=3"))
    assert alone(run, "sample") == "done"
    assert samples(run)["labels"].tolist() == [0, 1, 2, 0, 1]
    other = make_run("sample.num_samples=5", "data.num_classes=3", folder="other")
    changed = noisy_weights(other)
    changed["label_emb.weight"][1] += 1
    save_weights(other, 12, changed, {"0.9": changed})
    assert alone(other, "sample") == "done"
    equal = (samples(run)["images"] == samples(other)["images"]).all(axis=(1, 2, 3))
    assert equal.tolist() == [True, False, True, True, False]


# Weights --------------------------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_the_average_that_the_spec_names_is_sampled_from(make_run, alone):
    averaged = trained(make_run(folder="averaged"), averaged=0, raw=1)
    raw = trained(make_run("sample.ema_rate=null", folder="raw"), averaged=1, raw=0)
    other = trained(make_run("sample.ema_rate=null", folder="other"), averaged=0, raw=1)
    for run in (averaged, raw, other):
        assert alone(run, "sample") == "done"
    assert same(averaged, raw) and not np.array_equal(samples(averaged)["images"], samples(other)["images"])


def test_one_of_several_averages(make_run, alone):
    run = make_run("train.ema_rate=[0.5, 0.99]", "sample.ema_rate=0.99")
    save_weights(run, 12, noisy_weights(run, 1), {"0.5": noisy_weights(run, 1), "0.99": noisy_weights(run, 0)})
    plain = trained(make_run(folder="plain"))
    for either in (run, plain):
        assert alone(either, "sample") == "done"
    assert np.array_equal(samples(run)["images"], samples(plain)["images"])


def test_unfinished_training_is_refused(make_run, alone):
    run = make_run()
    for step in (0, 8):
        if step:
            save_weights(run, step, noisy_weights(run), {"0.9": noisy_weights(run)})
        with pytest.raises(UserError, match=rf"not finished \(step {step} of 12\); run `iddpm train {run.path}`"):
            alone(run, "sample")
    assert not run.samples.exists()


@pytest.mark.parametrize("name", ["ema-0.9.safetensors", "model.safetensors"])
def test_a_damaged_checkpoint_is_refused_by_name(make_run, alone, name):
    run = trained(make_run())
    file = run.checkpoints / "step-00000012" / name
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(UserError, match=f"{file}: damaged"):
        alone(run, "sample")
    assert not run.samples.exists()
