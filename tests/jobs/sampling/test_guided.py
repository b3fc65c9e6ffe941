"""Guided sampling through the stages: what samples depend on, what is kept and refused, and equal bytes after kill -9."""

import json
import shutil

import h5py
import numpy as np
import pytest
from broken_sampling import die_in_the_first_chunk
from noisy_runs import noisy, noisy_weights, same, samples, save_weights, trained

from jobs.errors import Busy, UserError
from jobs.run.checkpoints import save_checkpoint, sha256_of_weights
from jobs.run.directory import RunDir
from jobs.run.guides import foreign_guide_problems
from jobs.run.study.freezing import freeze
from jobs.spec.kinds import MODEL, kind_of
from jobs.spec.reading.file import load
from jobs.spec.samplings import main_sampling, sampling_facts, samplings, steps_kept_for_good
from jobs.storage.files import read_json

pytest_plugins = ["small_classifier"]

SHORT = ("sample.timestep_respacing=logsnr6", "sample.num_samples=6", "evaluate.nll_examples=0")  # six steps, two chunks
WITH_NULL_CLASS = "train.label_dropout=0.2"


def guided_by(**guidance) -> str:
    return f"sample.guidance={json.dumps(guidance)}"


@pytest.fixture
def classifier(make_classifier) -> RunDir:
    """A run that counts as trained: a classifier whose weights are noise."""
    return noisy(make_classifier(folder="classifiers"), seed=5, std=0.3)


@pytest.fixture
def make_guided(make_run, classifier):
    """make_guided(kind, *overrides, folder=...) -> RunDir: a run with that kind of guidance, as if trained."""
    def make(kind: str, *overrides: str, folder: str = "runs", **settings) -> RunDir:
        own = {"classifier_free": {"scale": 3}, "classifier": {"scale": 8, "run": str(classifier.path)},
               "autoguidance": {"scale": 2.5, "at": 8}, "another run": {"scale": 2.5, "run": str(other.path)}}[kind]
        name = "autoguidance" if kind == "another run" else kind
        given = {text.partition("=")[0]: text for text in (*SHORT, WITH_NULL_CLASS, *overrides)}  # the last one counts
        run = make_run(*given.values(), guided_by(kind=name, **own | settings), folder=folder)
        save_weights(run, 8, noisy_weights(run, 3), {"0.9": noisy_weights(run, 4)})
        return trained(run)
    other = trained(make_run("model.num_channels=16", folder="others"), averaged=7)
    return make


KINDS = ("classifier_free", "classifier", "autoguidance", "another run")


@pytest.mark.slow
@pytest.mark.parametrize("kind, sampler", [
    *((kind, "ancestral") for kind in KINDS), ("classifier", "ddim"), ("classifier", "unipc"), ("classifier_free", "heun"),
    ("autoguidance", "dpmpp_2m")])
def test_kill_9_within_a_guided_chain_and_another_number_of_ranks_change_no_byte(make_guided, ranks, alone, kind, sampler):
    run, unbroken = (make_guided(kind, f"sample.sampler={sampler}", folder=name, interval=[0, 20])
                     for name in ("run", "unbroken"))
    assert alone(unbroken, "sample") == "done"
    die_in_the_first_chunk(run)  # after three of six steps
    assert ranks(run, "sample", 2) == 0
    assert same(run, unbroken)


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_changes_samples_unless_its_scale_says_none(make_guided, make_run, alone, kind):
    plain = trained(make_run(*SHORT, WITH_NULL_CLASS, folder="plain"))
    guided = make_guided(kind, folder="guided")
    none = make_guided(kind, folder="none", scale=0 if kind == "classifier" else 1)
    for run in (plain, guided, none):
        assert alone(run, "sample") == "done"
    assert not np.array_equal(samples(guided)["images"], samples(plain)["images"])
    assert np.array_equal(samples(none)["images"], samples(plain)["images"])
    facts = [sampling_facts(run.spec, main_sampling(run.spec))["evaluations"] for run in (plain, guided, none)]
    assert facts == [6, 12, 6]


def test_a_guide_is_its_sha256_and_never_its_path(make_guided, alone, classifier):
    run = make_guided("classifier")
    assert alone(run, "sample") == "done"
    with h5py.File(run.samples_h5) as file:
        settings = json.loads(file.attrs["settings"])
        assert json.loads(file.attrs["guidance"]) == {"kind": "classifier", "run": str(classifier.path), "scale": 8.0,
                                                      "interval": None}
    weights = sha256_of_weights(torch_weights(classifier, "0.9"))
    assert settings["guide"] == {"weights_sha256": weights, "classes": 10, **kind_of(classifier.spec).identity(classifier.spec)}
    assert settings["sample"]["guidance"] == {"kind": "classifier", "scale": 8.0, "interval": None}
    assert str(classifier.path) not in json.dumps(settings)
    own = make_guided("autoguidance", folder="own")
    assert alone(own, "sample") == "done"
    with h5py.File(own.samples_h5) as file:
        settings = json.loads(file.attrs["settings"])
    assert settings["guide"]["weights_sha256"] == sha256_of_weights(noisy_weights(own, 4))  # the average of step 8
    assert settings["sample"]["guidance"] == {"kind": "autoguidance", "scale": 2.5, "interval": None}


def torch_weights(run, average):
    from jobs.run.checkpoints import final_checkpoint
    return final_checkpoint(run).weights(average)


def test_samples_of_another_guide_are_foreign(make_guided, alone, classifier):
    run = make_guided("classifier", "sample.num_samples=4")
    assert alone(run, "sample") == "done"
    weights = {key: value + 0.01 for key, value in torch_weights(classifier, "0.9").items()}
    shutil.rmtree(classifier.checkpoints)
    save_checkpoint(classifier, 12, {MODEL: {None: weights, "0.9": weights}}, None)
    with pytest.raises(UserError, match="made with other weights or settings: guide.weights_sha256"):
        alone(run, "sample")


def test_samples_of_a_guide_that_reads_equal_weights_in_another_way_are_foreign(make_guided, make_classifier, alone, classifier):
    run = make_guided("classifier", "sample.num_samples=4")
    assert alone(run, "sample") == "done"
    weights = torch_weights(classifier, "0.9")
    shutil.rmtree(classifier.path.parent)  # imported again, with another guess at what no checkpoint records
    again = make_classifier("model.use_new_attention_order=true", folder="classifiers")
    assert again.path == classifier.path
    save_checkpoint(again, 12, {MODEL: {None: weights, "0.9": weights}}, None)
    with pytest.raises(UserError, match="other weights or settings: guide.model.use_new_attention_order False instead of True"):
        alone(run, "sample")


def test_a_network_without_classes_takes_those_of_the_classifier(make_guided, alone):
    run = make_guided("classifier", "data.class_cond=false", "data.num_classes=null", "train.label_dropout=0",
                      "sample.num_samples=12")
    assert foreign_guide_problems([run.spec]) == []
    assert alone(run, "sample") == "done"
    assert samples(run)["labels"].tolist() == [*range(10), 0, 1]
    with np.load(run.samples / "samples.npz") as file:
        assert file["arr_1"].tolist() == [*range(10), 0, 1]


# Which checkpoints are kept -------------------------------------------------------------------------------------------

def steps_of(run):
    return [int(folder.name.removeprefix("step-")) for folder in run.checkpoint_folders()]


def test_the_step_that_guides_is_saved_and_kept_for_good(make_run, alone):
    run = make_run(*SHORT, guided_by(kind="autoguidance", at=3, scale=2), "train.save_interval=2")
    assert steps_kept_for_good(run.spec) == {3, 12}
    assert alone(run, "train") == "done"
    assert steps_of(run) == [3, 10, 12]
    further = [{"guidance": {"kind": "autoguidance", "at": [3, 5], "scale": 2}}]
    listed = make_run(*SHORT, "train.save_interval=2", f"evaluate.samplings={json.dumps(further)}", folder="listed")
    assert alone(listed, "train") == "done" and steps_of(listed) == [3, 5, 10, 12]
    assert alone(listed, "sample") == "done" and len(samplings(listed.spec)) == 3


def study_of(tmp_path, small, *points, folder="runs"):
    spec = tmp_path / "study.yaml"
    spec.write_text(json.dumps({**small, "name": "study", "sweep": {"list": list(points)}}))
    return freeze(load(spec, SHORT), tmp_path / folder)


@pytest.fixture
def small():
    from small_runs import SMALL_SPEC
    return SMALL_SPEC


BASE = {"name": "base", "train.seed": 1}


def led(**settings) -> dict:
    return {"name": "led", "sample.guidance": {"kind": "autoguidance", "run": "base", "scale": 2, **settings}}


def test_a_run_of_the_study_keeps_the_step_with_which_it_guides_another(tmp_path, small, alone):
    base, guided = study_of(tmp_path, {**small, "train": {**small["train"], "save_interval": 2}}, BASE, led(at=5))
    assert alone(base, "train") == "done" and steps_of(base) == [5, 10, 12]
    assert alone(guided, "train") == "done" and steps_of(guided) == [10, 12]
    assert alone(guided, "sample") == "done"


def test_a_step_that_is_gone_or_beyond_is_refused(tmp_path, small, make_run, alone):
    run = trained(make_run(*SHORT))
    again = f"evaluate.samplings={json.dumps([{'guidance': {'kind': 'autoguidance', 'at': 7, 'scale': 2}}])}"
    with pytest.raises(UserError, match=r"evaluate.samplings\[0\].guidance.at: no checkpoint of step 7 is there any more"):
        make_run(*SHORT, again)
    assert run.spec.evaluate.samplings == []
    with pytest.raises(UserError, match="sample.guidance.at: step 13 is beyond train.iterations 12$"):
        make_run(*SHORT, guided_by(kind="autoguidance", at=13, scale=2), folder="beyond")
    with pytest.raises(UserError, match="sample.guidance.at: step 13 is beyond train.iterations 12 of base; in run led"):
        study_of(tmp_path, small, BASE, led(at=13))
    base, = study_of(tmp_path, small, BASE)
    trained(base)
    with pytest.raises(UserError, match=r"guidance.at: no checkpoint of step 7 is in .*base any more; there are those of 12"):
        study_of(tmp_path, small, BASE, led(at=7))
    other = load(tmp_path / "study.yaml", (*SHORT,)).runs[1].spec
    foreign = other.model_copy(update={"sample": other.sample.model_copy(update={
        "guidance": other.sample.guidance.model_copy(update={"run": str(base.path)})})})
    assert foreign_guide_problems([foreign]) == [f"sample.guidance.at: no checkpoint of step 7 is in {base.path} any more; there "
                                                 "are those of 12"]


def test_training_that_is_under_way_is_not_asked_for_a_step_that_it_does_not_save(tmp_path, small):
    base, = study_of(tmp_path, small, BASE)
    with base.exclusively():
        study_of(tmp_path, small, BASE, {**led(at=4), "name": "saved"})
        with pytest.raises(Busy):
            study_of(tmp_path, small, BASE, led(at=5))
    study_of(tmp_path, small, BASE, led(at=5))
    assert sorted(step for file in (base.path / "kept_for").glob("*.json") for step in read_json(file)["steps"]) == [4, 5]


# What cannot guide ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change, message", [
    ({"diffusion.noise_schedule": "linear"}, "base has diffusion.noise_schedule: linear, and this run has cosine"),
    ({"diffusion.diffusion_steps": 50}, "base has diffusion.diffusion_steps: 50, and this run has 40"),
    ({"diffusion.rescale_timesteps": False}, "base has diffusion.rescale_timesteps: false, and this run has true"),
    ({"diffusion.predict": "x_start"}, "base has diffusion.predict: x_start, and this run has epsilon"),
    ({"data.class_cond": False}, "base has no classes, and this run 10"),
    ({"data.image_size": 16, "model.attention_resolutions": [8]}, "base has data.image_size: 16, and this run has 8"),
])
def test_a_guide_that_sees_something_else_is_refused(tmp_path, small, change, message):
    with pytest.raises(UserError, match=f"sample.guidance.run: {message}"):
        study_of(tmp_path, small, {**BASE, **change}, led())


def test_a_guide_of_another_kind_is_refused(tmp_path, small, make_run, classifier):
    with pytest.raises(UserError, match="base is of kind: diffusion; a guide of kind classifier is a run of kind: noisy_cl"):
        study_of(tmp_path, small, BASE, {"name": "led", "sample.guidance": {"kind": "classifier", "run": "base", "scale": 1}})
    run = make_run(guided_by(kind="autoguidance", run=str(classifier.path), scale=2))
    problem, = foreign_guide_problems([run.spec])
    assert problem.endswith("is of kind: noisy_classifier; a guide of kind autoguidance is a run of kind: diffusion")
    with pytest.raises(UserError, match="sample.guidance: guides the network by itself"):
        make_run(guided_by(kind="autoguidance", scale=2), folder="itself")
    with pytest.raises(UserError, match="sample.guidance.ema_rate: 0.5 is not among train.ema_rate"):
        make_run(guided_by(kind="autoguidance", scale=2, ema_rate=0.5), folder="rate")


def test_an_average_that_the_guide_cannot_have_at_its_step_is_refused(tmp_path, small, make_run):
    averages = ("train.ema_sigma_rel=[0.05, 0.1]", "train.ema_snapshots=12")
    make_run(*averages, "sample.ema_sigma_rel=0.07", folder="plain")
    own = (*averages, "sample.ema_sigma_rel=0.07", guided_by(kind="autoguidance", at=1, scale=2))
    with pytest.raises(UserError, match="guidance.at: step 1 has no average sample.ema_sigma_rel 0.07: 1 snapshot of"):
        make_run(*own, folder="own")
    make_run(*own[:-1], guided_by(kind="autoguidance", at=1, ema_rate=0.9, scale=2), folder="by rate")
    small = {**small, "train": {**small["train"], "ema_sigma_rel": [0.05, 0.1], "ema_snapshots": 12}}
    with pytest.raises(UserError, match="guidance.at: step 1 has no average sample.ema_sigma_rel of base 0.07: 1 snapshot"):
        study_of(tmp_path, small, {**BASE, "sample.ema_sigma_rel": 0.07}, led(at=1))
