"""What the evaluation stage refuses, most of it before anything runs."""

import h5py
import numpy as np
import pytest
import yaml

from jobs.errors import UserError
from jobs.kinds.diffusion.guidance_section import ClassifierGuidance
from jobs.kinds.diffusion.sections import diffusion_contradictions
from jobs.run.preflight import input_problems
from jobs.spec.samplings import listed_contradictions


@pytest.mark.parametrize("metric, few, features", [
    ("fid", 1, "pixels"), ("sfid", 1, "classifier"), ("kid", 1, "pixels"), ("precision_recall", 3, "pixels")])
def test_too_few_samples_for_a_metric_are_refused_at_once(make_run, metric, few, features):
    overrides = f"evaluate.metrics=[{metric}]", f"evaluate.features={features}"
    with pytest.raises(UserError, match=f"sample.num_samples: {few}, but metric {metric} needs at least {few + 1} samples"):
        make_run(*overrides, f"sample.num_samples={few}")
    assert make_run(*overrides, f"sample.num_samples={few + 1}").spec.sample.num_samples == few + 1
    assert make_run("evaluate.metrics=[]", "sample.num_samples=1", folder="without").spec.sample.num_samples == 1


@pytest.mark.parametrize("metrics, message", [
    ("[sfid]", "sfid needs more than features: pixels has"),
    ("[inception_score]", "inception_score needs more than features: pixels has"),
])
def test_metrics_that_pixels_cannot_give_are_refused_in_the_spec(make_run, metrics, message):
    with pytest.raises(UserError, match=message):
        make_run(f"evaluate.metrics={metrics}")


def test_labels_that_no_samples_have_are_refused_in_the_spec(make_run):
    overrides = "evaluate.metrics=[label_accuracy]", "evaluate.features=classifier"
    assert make_run(*overrides).spec.evaluate.metrics == ["label_accuracy"]
    with pytest.raises(UserError, match="evaluate.metrics: label_accuracy needs samples of requested classes"):
        make_run(*overrides, "data.class_cond=false", folder="without")


@pytest.mark.parametrize("main, listed", [(True, "null"), (False, "{kind: classifier, run: x, scale: 2}")])
def test_samples_that_a_classifier_guides_have_labels(make_run, main, listed):
    spec = make_run("data.class_cond=false").spec
    evaluate = spec.evaluate.model_copy(update={"metrics": ["label_accuracy"], "features": "classifier",
                                                "samplings": [{"guidance": yaml.safe_load(listed)}]})
    guidance = ClassifierGuidance(kind="classifier", run="x", scale=1.0) if main else None
    spec = spec.model_copy(update={"evaluate": evaluate, "sample": spec.sample.model_copy(update={"guidance": guidance})})
    assert diffusion_contradictions(spec) == listed_contradictions(spec) == []


def test_a_reference_that_cannot_give_a_metric_is_refused_before_anything_runs(make_run, sampled, alone, tmp_path):
    np.savez(tmp_path / "edm.npz", mu=np.zeros(64), sigma=np.eye(64))
    run = sampled(f"evaluate.reference={tmp_path / 'edm.npz'}", "evaluate.metrics=[fid, kid]", "evaluate.nll_examples=0")
    (fid, kid) = input_problems(run.spec)
    assert "features is pixels" in fid and "has no images (arr_0), which kid needs" in kid
    with pytest.raises(UserError, match="which kid needs"):
        alone(run, "evaluate")


def test_samples_that_are_missing_damaged_or_of_other_weights_are_refused(sampled, alone):
    run, other = sampled(folder="a"), sampled(seed=1, folder="b")
    samples = run.samples_h5.read_bytes()
    run.samples_h5.write_bytes(other.samples_h5.read_bytes())
    with pytest.raises(UserError, match=f"{run.samples_h5}: made with other weights or settings: weights_sha256"):
        alone(run, "evaluate")
    run.samples_h5.write_bytes(samples[:-1])
    with pytest.raises(UserError, match=f"{run.samples_h5}: cannot be read .damaged"):
        alone(run, "evaluate")
    run.samples_h5.unlink()
    with pytest.raises(UserError, match=f"{run.samples_h5}: missing; run `iddpm sample {run.path}`"):
        alone(run, "evaluate")
    assert not run.evaluation.exists()


def test_a_reference_of_another_kind_is_refused(sampled, alone, tmp_path):
    with h5py.File(tmp_path / "large.h5", "w") as file:
        file["images"] = np.zeros((3, 16, 16, 1), np.uint8)
    run = sampled(f"evaluate.reference={tmp_path / 'large.h5'}")
    with pytest.raises(UserError, match="large.h5: images are 16x16, but image_size is 8"):
        alone(run, "evaluate")
