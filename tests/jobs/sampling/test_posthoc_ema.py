"""Sampling and exporting with averages whose length is chosen after training."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from command_line import iddpm_here
from noisy_runs import same, samples
from safetensors import safe_open
from safetensors.torch import load_file
from small_checkpoints import same as same_weights
from small_runs import SMALL_SPEC

from jobs.errors import UserError
from jobs.run.checkpoints import checkpoint_at, final_checkpoint, sha256_of_weights
from jobs.run.directory import RunDir
from jobs.run.snapshots import power_average
from jobs.run.start_weights import start_file
from jobs.run.study.freezing import freeze
from jobs.sampling.chunks import sampling_settings
from jobs.spec.reading.file import load
from jobs.spec.samplings import samplings

SETTINGS = ("train.ema_sigma_rel=[0.05, 0.1]", "train.iterations=24", "train.ema_snapshots=12", "train.save_interval=24",
            "diffusion.diffusion_steps=4", "evaluate.nll_examples=0", "evaluate.nll_data=null")


@pytest.fixture
def trained_once(make_run, alone):
    """trained_once("sample.ema_sigma_rel=0.07", ..., folder="a") -> a run with these settings of one and the same training."""
    run = make_run(*SETTINGS, "sample.at=[12, last]")
    assert alone(run, "train") == "done"

    def again(*overrides: str, folder: str) -> RunDir:
        other = make_run(*SETTINGS, *overrides, folder=folder)
        for part in ("checkpoints", "snapshots"):
            shutil.copytree(run.path / part, other.path / part)
        return other
    return again


@pytest.mark.slow
def test_every_sampling_may_choose_a_length_and_samples_depend_on_nothing_else(trained_once, alone, ranks):
    listed = trained_once("sample.ema_sigma_rel=0.07", "sample.at=[12, last]",
                          "evaluate.samplings=[{ema_sigma_rel: [0.05, 0.15]}, {ema_sigma_rel: null}]", folder="listed")
    assert ranks(listed, "sample", 2) == 0
    assert [(each.step, dict(each.changes)) for each in samplings(listed.spec)] == [
        (24, {}), (12, {}), (24, {"ema_sigma_rel": 0.05}), (24, {"ema_sigma_rel": 0.15}), (24, {"ema_sigma_rel": None})]
    weights = {}
    for sampling in samplings(listed.spec):
        with h5py.File(listed.samples_folder(sampling) / "samples.h5") as file:
            weights[sampling.step, dict(sampling.changes).get("ema_sigma_rel", 0.07)] = json.loads(
                file.attrs["settings"])["weights_sha256"]
    last = final_checkpoint(listed)
    assert weights == {
        (24, 0.07): sha256_of_weights(power_average(listed, last, 0.07)),
        (12, 0.07): sha256_of_weights(power_average(listed, checkpoint_at(listed, 12), 0.07)),
        (24, 0.05): sha256_of_weights(last.weights("sigma_rel-0.05")),
        (24, 0.15): sha256_of_weights(power_average(listed, last, 0.15)),
        (24, None): sha256_of_weights(last.weights("0.9"))}
    assert len({*weights.values()}) == 5

    main = trained_once("sample.ema_sigma_rel=0.15", folder="main")
    assert alone(main, "sample") == "done" and not same(main, listed)
    with h5py.File(listed.samples_folder(samplings(listed.spec)[3]) / "samples.h5") as file:
        assert np.array_equal(file["images"], samples(main)["images"])


def test_samples_without_a_length_are_those_that_were_made_before_there_was_one(make_run):
    spec = make_run().spec
    assert "ema_sigma_rel" not in sampling_settings(spec, "ab")["sample"]
    with_length = make_run("train.ema_sigma_rel=[0.05]", "sample.ema_sigma_rel=0.05", folder="length").spec
    assert sampling_settings(with_length, "ab")["sample"]["ema_sigma_rel"] == 0.05


def test_export_takes_a_length_and_a_step(trained_once, tmp_path, monkeypatch):
    run = trained_once("sample.ema_sigma_rel=0.07", folder="exported")
    monkeypatch.chdir(tmp_path)
    last, early = final_checkpoint(run), checkpoint_at(run, 12)
    for options, weights, facts in (
            ([], power_average(run, last, 0.07), {"step": "24", "ema_sigma_rel": "0.07"}),
            (["--ema-sigma-rel", 0.12, "--at", 12], power_average(run, early, 0.12), {"step": "12", "ema_sigma_rel": "0.12"}),
            (["--ema-sigma-rel", 0.1], last.weights("sigma_rel-0.1"), {"step": "24", "ema_sigma_rel": "0.1"}),
            (["--ema-rate", 0.9, "--at", 12], early.weights("0.9"), {"step": "12", "ema_rate": "0.9"}),
            (["--raw"], last.weights(None), {"step": "24", "ema_rate": ""})):
        iddpm_here("export", run.path, "out.safetensors", *options)
        assert same_weights(dict(sorted(load_file("out.safetensors").items())), dict(sorted(weights.items())))
        with safe_open("out.safetensors", "pt") as file:
            assert {key: value for key, value in file.metadata().items() if key not in ("spec", "format")} == facts
    said = iddpm_here("import", "out.safetensors", "--spec", run.spec_file, "name=imported", status=2)
    assert "train.ema_sigma_rel: such averages begin with the first step" in said and not Path("runs/imported").exists()
    iddpm_here("export", run.path, "out.pt", "--ema-sigma-rel", 0.07)
    assert same_weights(dict(sorted(torch.load("out.pt", weights_only=True).items())),
                        dict(sorted(power_average(run, last, 0.07).items())))
    for options, message in (
            (["--ema-sigma-rel", 0.01], "ema_sigma_rel 0.01: 12 snapshots of train.ema_sigma_rel [0.05, 0.1], up to"),
            (["--ema-sigma-rel", 0.4], "ema_sigma_rel 0.4 is not between 0 and 0.2887"),
            (["--ema-sigma-rel", 1e-300], "ema_sigma_rel 1e-300 is below 1e-06, the smallest sigma_rel"),
            (["--ema-sigma-rel", 0.07, "--raw"], "--raw, --ema-rate and --ema-sigma-rel exclude each other"),
            (["--at", 13], "step-00000013: not there. The steps whose checkpoints are there are those that --at can name: "
                           "12, 24")):
        said = iddpm_here("export", run.path, "refused.pt", *options, status=2)
        assert message in said and not (tmp_path / "refused.pt").exists()


def test_training_does_not_start_from_an_average_that_no_file_has(trained_once, make_run):
    run = trained_once("sample.ema_sigma_rel=0.07", folder="made")
    spec = make_run(f"train.init_from={trained_once(folder='plain').path}", folder="fine").spec
    with pytest.raises(UserError, match="samples with ema_sigma_rel 0.07, which no file has; `iddpm export .* one to name"):
        start_file(spec.model_copy(update={"train": spec.train.model_copy(update={"init_from": str(run.path)})}))


def test_runs_that_share_a_training_share_its_snapshots(alone, tmp_path):
    spec = tmp_path / "sweep.yaml"
    spec.write_text(json.dumps(SMALL_SPEC | {"sweep": {"grid": {"sample.ema_sigma_rel": [0.07, 0.15]}}}))
    one, other = freeze(load(spec, SETTINGS), tmp_path / "runs")
    assert alone(one, "train") == "done" and other.is_done("train") and other.trainer.path == one.path
    assert not (other.path / "snapshots").exists()
    for sigma_rel in (0.07, 0.15):
        assert same_weights(*(power_average(run, final_checkpoint(run), sigma_rel) for run in (one, other)))
    assert alone(other, "sample") == "done"
