"""Specs of classifiers of noisy images, alone and beside other kinds in one study."""

import json

import pytest
from small_classifier import CLASSIFIER_SPEC, MIXED
from small_runs import SMALL_SPEC

from jobs.errors import UserError
from jobs.kinds.diffusion.sections import DiffusionSpec
from jobs.kinds.noisy_classifier.sections import ClassifierSpec
from jobs.run.study.freezing import freeze
from jobs.spec.kinds import draws_samples
from jobs.spec.reading.file import load
from jobs.spec.reading.frozen import dump, load_frozen
from jobs.spec.samplings import samplings, steps_kept_for_good


@pytest.fixture
def spec(tmp_path):
    """spec("data.num_classes=1") -> the resolved spec of the small classifier with these changes."""
    def spec(*overrides: str, **sections) -> ClassifierSpec:
        file = tmp_path / "x.yaml"
        file.write_text(json.dumps(CLASSIFIER_SPEC | sections))
        return load(file, overrides).runs[0].spec
    return spec


def test_defaults_are_those_of_the_published_classifiers(spec, tmp_path):
    found = spec("data.image_size=64", "data.num_classes=1000", model={})
    model = found.model
    assert (model.num_channels, model.num_res_blocks, model.channel_mult) == (128, 2, [1, 2, 3, 4])
    assert (model.attention_resolutions, model.num_head_channels, model.pool) == ([32, 16, 8], 64, "attention")
    assert model.resblock_updown and model.use_scale_shift_norm and not model.use_new_attention_order and not model.dropout
    (tmp_path / "spec.yaml").write_text(dump(found))
    assert load_frozen(tmp_path / "spec.yaml") == found
    assert not draws_samples(found) and samplings(found) == [] and steps_kept_for_good(found) == {12}


@pytest.mark.parametrize("override, message", [
    ("data.class_cond=false", "data.class_cond: a classifier learns the classes of its images"),
    ("data.num_classes=1", "data.num_classes: a classifier needs at least 2 classes"),
    ("model.pool=mean", "model.pool: must be 'attention', 'adaptive', 'spatial' or 'spatial_v2' (got mean)"),
    ("model.attention_resolutions=[16]", "model.attention_resolutions: 16 is not a resolution of this network; it has 8, 4"),
    ("model.num_head_channels=5", "model.num_head_channels: heads of 5 channels do not divide the 16 channels"),
    ("diffusion.loss=simple", "diffusion.loss: belongs to kind: diffusion or upsampler, but this"),
    ("sample.num_samples=10", "sample.num_samples: belongs to kind: diffusion, gan, upsampler or vae, but this"),
    ("evaluate.metrics=[fid]", "evaluate.metrics: belongs to kind: diffusion, gan, upsampler or vae, but this"),
    ("sample.ema_rate=0.5", "sample.ema_rate: 0.5 is not among train.ema_rate [0.9]"),
    ("train.batch_size=12,5", "train.batch_size: must be a whole number"),
])
def test_what_a_classifier_cannot_be_is_refused(spec, override, message):
    with pytest.raises(UserError) as refused:
        spec(override)
    assert message in str(refused.value)


def test_in_a_study_of_several_kinds_each_run_has_its_own_sections(tmp_path):
    (tmp_path / "x.yaml").write_text(json.dumps(SMALL_SPEC | {"sweep": MIXED} | {
        "model": SMALL_SPEC["model"] | {"num_head_channels": 4}}))
    classifier, conditional = load(tmp_path / "x.yaml").runs
    assert isinstance(classifier.spec, ClassifierSpec) and isinstance(conditional.spec, DiffusionSpec)
    assert classifier.spec.diffusion.diffusion_steps == conditional.spec.diffusion.diffusion_steps == 40
    assert classifier.spec.sample.ema_rate == 0.9 and conditional.spec.sample.num_samples == 10


def test_only_what_training_does_not_depend_on_may_change(tmp_path):
    def frozen(*overrides: str):
        file = tmp_path / "x.yaml"
        file.write_text(json.dumps(CLASSIFIER_SPEC))
        return freeze(load(file, overrides), tmp_path / "runs")[0]

    frozen()
    assert frozen("evaluate.examples=20").spec.evaluate.examples == 20
    with pytest.raises(UserError, match="data.random_crop: true -> false"):
        frozen("data.random_crop=false")
