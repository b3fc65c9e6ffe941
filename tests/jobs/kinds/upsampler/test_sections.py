"""Specs of models that enlarge images: what they resolve to, which runs they wait for, and what is refused."""

import json

import numpy as np
import pytest
from paths import GOLDEN
from small_upsampler import UPSAMPLER_SPEC, stages, write_small_digits

from jobs.cost.count import run_cost
from jobs.errors import UserError
from jobs.kinds.upsampler.sections import UpsamplerSpec
from jobs.run.given import foreign_given_problems
from jobs.run.preflight import all_input_problems
from jobs.run.waiting import waits_for
from jobs.spec.kinds import editing_kind, given_of, kind_of
from jobs.spec.reading.file import load
from jobs.spec.reading.frozen import dump, load_frozen
from jobs.spec.references import references

PUBLISHED = json.loads((GOLDEN / "published_configs_adm.json").read_text())


@pytest.fixture
def spec(tmp_path):
    """spec("upsampler.low_res_size=3") -> the resolved spec of the small upsampler with these changes."""
    def spec(*overrides: str) -> UpsamplerSpec:
        file = tmp_path / "x.yaml"
        file.write_text(json.dumps(UPSAMPLER_SPEC))
        return load(file, overrides).runs[0].spec
    return spec


def test_a_spec_says_which_images_are_enlarged(spec, tmp_path):
    found = spec()
    assert isinstance(found, UpsamplerSpec) and found.model.learn_sigma and editing_kind(found) is None
    (tmp_path / "spec.yaml").write_text(dump(found))
    assert load_frozen(tmp_path / "spec.yaml") == found
    for overrides, run, path in [((), None, "digits"),
                                 (("sample.low_res={path: x.h5}",), None, "x.h5"),
                                 (("sample.low_res={run: runs/a/b}",), "runs/a/b", None)]:
        given = given_of(spec(*overrides))
        assert (given.run, given.path, given.size) == (run, path, 4)


@pytest.mark.parametrize("override, message", [
    ("upsampler.low_res_size=3", "upsampler.low_res_size: 3 must be smaller than data.image_size 8, and divide it"),
    ("upsampler.low_res_size=8", "upsampler.low_res_size: 8 must be smaller than data.image_size 8, and divide it"),
    ("upsampler=null", "upsampler: "),
    ("sample.low_res={}", "sample.low_res: give either run: NAME, whose samples are enlarged, or path: FILE"),
    ("sample.low_res={run: a, path: b.h5}", "sample.low_res: give either run: NAME, whose samples are enlarged, or path: FILE"),
    ("sample.low_res_noise=0.1", "sample.low_res_noise: 0.1 is beyond upsampler.low_res_noise 0, up to which the network"),
    ("upsampler.low_res_noise=1", "upsampler.low_res_noise: "),
    ("sample.low_res={run: base}", "sample.low_res.run: this study has no run base; its runs are run"),
    ("evaluate.samplings=[{low_res: {path: x.h5}}]", "samples of one run are made of the same small images"),
    ("sample.guidance={kind: classifier_free, scale: 2}", "kind classifier_free needs a network that was also trained without"),
])
def test_what_cannot_be_is_refused_in_a_sentence(spec, override, message):
    with pytest.raises(UserError) as refused:
        spec(override)
    assert message in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_its_sampling_waits_for_the_samples_that_it_enlarges(make_stages):
    large, base = make_stages()
    (reference, other), = waits_for(large, "sample")
    assert (reference.key, other.path, reference.needs) == ("sample.low_res.run", base.path, "sample")
    assert waits_for(large, "train") == waits_for(large, "evaluate") == [] and not references(base.spec)


@pytest.mark.parametrize("large, base, message", [
    ({}, {"data.image_size": 8, "data.path": "digits", "model.attention_resolutions": [4]},
     "base has images of 8x8, but upsampler.low_res_size is 4: it takes images of 4x4"),
    ({}, {"data.class_cond": False}, "base has no classes, and this run 10, of which each sample has that of its small image"),
    ({}, {"data.num_classes": 12}, "base has 12 classes, and this run 10"),
    ({}, {"sample.num_samples": 9}, "base has 9 images, but sample.num_samples is 10: each sample is made of one image"),
    ({}, {"data.channels": 3}, "base has images of 3 channels, but data.channels is 1"),
    ({"sample.low_res.run": "large"}, {}, "runs wait for each other in a circle: large"),
])
def test_a_run_whose_samples_do_not_fit_is_refused(tmp_path, small_digits, large, base, message):
    file = tmp_path / "stages.yaml"
    file.write_text(json.dumps(stages(small_digits, large, base)))
    with pytest.raises(UserError) as refused:
        load(file)
    assert f"sample.low_res.run: {message}" in str(refused.value)


def test_runs_of_other_studies_and_files_are_checked_as_well(make_stages, spec, tmp_path, small_digits):
    _, base = make_stages()
    foreign = f"sample.low_res={{run: {base.path}}}"
    assert foreign_given_problems([spec(foreign)]) == []
    problem, = foreign_given_problems([spec(foreign, "sample.num_samples=11")])
    assert problem.startswith(f"sample.low_res.run: {base.path} has 10 images, but sample.num_samples is 11")

    def problems(file, *overrides):
        return all_input_problems([spec(f"sample.low_res={{path: {file}}}", *overrides)])
    assert problems(small_digits) == problems("digits") == problems("digits-test") == []
    few, unlabelled = (write_small_digits(tmp_path / name, 7, labels) for name, labels in (("few.h5", True), ("bare.h5", False)))
    assert problems(few) == [f"sample.low_res.path: {few} has 7 images, but sample.num_samples is 10: each sample is made of one "
                             "image"]
    assert "has no classes, and this run 10" in problems(unlabelled, "sample.num_samples=7")[0]
    assert "no such file" in problems("missing.h5")[0]
    np.savez(tmp_path / "odd.npz", arr_0=np.zeros((20, 5, 5, 1), np.uint8), arr_1=np.zeros(20, np.int64))
    problem, = problems(tmp_path / "odd.npz")
    assert problem.endswith("has images of 5x5, but upsampler.low_res_size is 4: it takes images of 4x4, or 8x8, which are "
                            "reduced")
    assert all_input_problems([spec("sample.num_samples=2000")]) == [
        "sample.low_res: digits has 1500 images, but sample.num_samples is 2000: each sample is made of one image"]


def test_it_describes_itself_as_a_diffusion_model_that_is_given_a_small_image(spec):
    plain, noised = (kind_of(each).description(each) for each in (spec(), spec("upsampler.low_res_noise=0.3")))
    assert plain.title == "Upsampler (IDDPM)" and "ε_θ(x_t, t, y, x_low)" in plain.objective
    assert "p_θ(x_{t−1} | x_t, x_low)" in plain.objective and "ε_θ(x_t, t, y)" not in str(plain)
    assert "random level" not in str(plain) and "random level" in noised.training[1] and "Cascaded" in noised.training[1]


@pytest.mark.parametrize("name", [name for name, flags in PUBLISHED.items() if flags["network"] == "SuperResModel"])
def test_published_networks_are_counted_with_the_published_size(spec, name):
    flags = PUBLISHED[name]
    names = ("num_channels", "num_res_blocks", "channel_mult", "num_heads", "use_scale_shift_norm")
    settings = {key: flags[key] for key in names}
    settings |= {"num_head_channels": None if flags.get("num_head_channels", -1) == -1 else flags["num_head_channels"],
                 "resblock_updown": flags.get("resblock_updown", False),
                 "attention_resolutions": [int(size) for size in flags["attention_resolutions"].split(",")]}
    data = {"path": "x.h5", "image_size": flags["large_size"], "class_cond": True, "num_classes": flags["num_classes"]}
    cost = run_cost(spec(f"model={json.dumps(settings)}", f"data={json.dumps(data)}", "data.channels=3",
                         f"upsampler.low_res_size={flags['small_size']}", "evaluate.nll_data=null", "evaluate.nll_examples=0"))
    assert (cost.parameters, cost.tensors) == (flags["parameters"], flags["keys"])
