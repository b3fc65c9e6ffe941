"""Runs that enlarge images, beside other features: guides, further samplings, shared trainings, imported weights."""

import json

import h5py
import numpy as np
import pytest
import torch
from command_line import iddpm_here
from noisy_runs import noisy, samples
from small_runs import SMALL_SPEC
from small_upsampler import UPSAMPLER_SPEC, stages, write_small_digits

from jobs.errors import UserError
from jobs.kinds.foreign_weights import read_weights
from jobs.run.checkpoints import final_checkpoint
from jobs.run.study.freezing import freeze
from jobs.spec.kinds import kind_of
from jobs.spec.reading.file import load
from jobs.spec.samplings import samplings

AUTO = {"kind": "autoguidance", "run": "weak", "scale": 2}


def study_of(tmp_path, *points: dict, **sections) -> list:
    file = tmp_path / "guided.yaml"
    file.write_text(json.dumps({**UPSAMPLER_SPEC, "name": "guided", **sections, "sweep": {"list": list(points)}}))
    return freeze(load(file), tmp_path / "guided-runs")


def test_a_weaker_network_that_enlarges_the_same_images_guides(tmp_path, alone):
    led, weak, plain = study_of(tmp_path, {"name": "led", "sample.guidance": AUTO}, {"name": "weak", "train.seed": 1},
                                {"name": "plain", "train.seed": 2})
    for seed, run in enumerate((led, weak, plain)):
        noisy(run, seed % 2)
    for run in (led, plain):
        assert alone(run, "sample") == "done"
    assert not np.array_equal(samples(led)["images"], samples(plain)["images"])
    assert samples(led)["labels"].tolist() == samples(plain)["labels"].tolist()


@pytest.mark.parametrize("other, message", [
    ({"upsampler.low_res_size": 2}, "weak has upsampler.low_res_size: 2, and this run has 4; a guide must see the same small"),
    ({"upsampler.low_res_noise": 0.2}, "weak has upsampler.low_res_noise: 0.2, and this run has 0.0; a guide must see"),
])
def test_a_guide_of_other_small_images_is_refused(tmp_path, other, message):
    with pytest.raises(UserError, match=f"sample.guidance.run: {message}"):
        study_of(tmp_path, {"name": "led", "sample.guidance": AUTO}, {"name": "weak", **other})


def test_a_model_of_another_kind_neither_guides_it_nor_is_guided_by_it(tmp_path, small_digits):
    file = tmp_path / "x.yaml"
    plain = {"name": "weak", "data.path": "digits", "data.image_size": 8, "model.attention_resolutions": [4]}
    file.write_text(json.dumps(stages(small_digits, {"sample.guidance": AUTO, "sample.low_res.run": "weak"}, plain)))
    with pytest.raises(UserError, match="weak is of kind: diffusion; a guide of kind autoguidance is a run of kind: upsampler"):
        load(file)


def test_a_classifier_of_the_large_images_guides(tmp_path, make_upsampler, make_classifier, alone):
    classifier = noisy(make_classifier(folder="classifiers"))
    guidance = json.dumps({"kind": "classifier", "run": str(classifier.path), "scale": 5})
    few = write_small_digits(tmp_path / "bare.h5", 12, labels=False)
    shared = (f"sample.low_res={{path: {few}}}", "data.class_cond=false", "data.num_classes=null")
    plain = noisy(make_upsampler(*shared, folder="plain"))
    guided = noisy(make_upsampler(*shared, f"sample.guidance={guidance}", folder="guided"))
    for run in (plain, guided):
        assert alone(run, "sample") == "done"
    assert "labels" not in samples(plain) and samples(guided)["labels"].tolist() == list(range(10))
    assert not np.array_equal(samples(guided)["images"], samples(plain)["images"])

    with h5py.File(few, "a") as file:
        file["labels"] = np.arange(12) + 1  # sample 9, the last one, has class 10
    foreign = noisy(make_upsampler(*shared, f"sample.guidance={guidance}", folder="foreign"))
    with pytest.raises(UserError, match="its classifier knows 10 classes, from 0, but .* is one of class 10"):
        alone(foreign, "sample")
    assert not list(foreign.samples.glob("chunk-*"))


def test_a_run_is_sampled_at_several_levels_of_noise_and_others_share_its_training(tmp_path, alone):
    small = write_small_digits(tmp_path / "small.h5", 20)
    levels = {"evaluate.samplings": [{"low_res_noise": [0.1, 0.3]}]}
    first, second = study_of(tmp_path, {"name": "reduced", **levels}, {"name": "file", "sample.low_res": {"path": str(small)}},
                             upsampler={"low_res_size": 4, "low_res_noise": 0.3})
    assert second.shares == "reduced" and [dict(each.changes) for each in samplings(first.spec)] == [
        {}, {"low_res_noise": 0.1}, {"low_res_noise": 0.3}]
    noisy(first)
    assert alone(first, "sample") == alone(second, "sample") == "done"
    assert (first.samples_folder(samplings(first.spec)[2]) / "samples.h5").exists()
    with pytest.raises(UserError, match=r"evaluate.samplings\[0\].low_res_noise: 0.4 is beyond upsampler.low_res_noise 0.3"):
        study_of(tmp_path, {"name": "far", "evaluate.samplings": [{"low_res_noise": 0.4}]},
                 upsampler={"low_res_size": 4, "low_res_noise": 0.3})


def test_import_takes_what_the_weights_tell(tmp_path, monkeypatch, make_upsampler):
    monkeypatch.chdir(tmp_path)
    run = noisy(make_upsampler())
    weights = final_checkpoint(run).weights("0.9")
    torch.save(weights, "upsampler.pt")
    told = {key: SMALL_SPEC["data"][key] for key in ("path", "image_size")}
    spec = {**UPSAMPLER_SPEC, "name": "imported", "data": told, "train": {"iterations": 12, "ema_rate": [0.9]},
            "model": {"num_heads": 2, "num_heads_upsample": None, "use_new_attention_order": False},
            "diffusion": {"diffusion_steps": 40, "noise_schedule": "cosine", "rescale_timesteps": True, "predict": "epsilon"}}
    (tmp_path / "imported.yaml").write_text(json.dumps(spec))
    iddpm_here("import", "upsampler.pt", "--spec", "imported.yaml")
    (folder,) = (tmp_path / "runs" / "imported").glob("*/spec.yaml")
    imported = type(run)(folder.parent)
    assert imported.spec.model == run.spec.model and imported.spec.data == run.spec.data
    ours = final_checkpoint(imported).weights("0.9")
    assert all(torch.equal(ours[key], value) for key, value in weights.items())
    assert kind_of(imported.spec).layers(imported.spec) == kind_of(run.spec).layers(run.spec)
    del spec["upsampler"]
    (tmp_path / "imported.yaml").write_text(json.dumps(spec))
    assert "upsampler: required, but not given" in iddpm_here("import", "upsampler.pt", "--spec", "imported.yaml", status=2)
    wrong = {key: value for key, value in weights.items() if key != "out.2.bias"}
    torch.save(wrong, "wrong.pt")
    with pytest.raises(UserError, match="weights of another network: .*out.2.bias"):
        read_weights(tmp_path / "wrong.pt", run.spec)
