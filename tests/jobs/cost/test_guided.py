"""What guidance costs, counted: evaluations inside the interval alone, and the guide by its own network."""

import json

import pytest
from small_classifier import classifier_spec
from small_runs import SMALL_SPEC
from spec_files import one_spec

from jobs.cost.count import run_cost
from jobs.cost.guided import evaluations_worth
from jobs.errors import UserError
from jobs.kinds.diffusion.kind import KIND
from jobs.report.cost import sampling_costs
from jobs.report.page.cost_section import sampling_statements
from jobs.report.run import read_run
from jobs.run import directory
from jobs.run.study.freezing import freeze
from jobs.spec.kinds import MODEL, kind_of
from jobs.spec.reading.file import load
from jobs.spec.reading.frozen import load_frozen


@pytest.fixture
def spec_with(tmp_path):
    def make(*overrides, **guidance):
        file = tmp_path / "small.yaml"
        file.write_text(json.dumps(SMALL_SPEC))
        given = [f"sample.guidance={json.dumps(guidance)}"] if guidance else []
        return one_spec(file, [*overrides, "train.label_dropout=0.1", *given])
    return make


def flops(spec) -> int:
    return sum(layer.flops for layer in kind_of(spec).layers(spec)[MODEL])


def test_classifier_free_guidance_costs_as_much_again_inside_its_interval(spec_with):
    assert evaluations_worth(spec_with()) == 40
    assert evaluations_worth(spec_with(kind="classifier_free", scale=2)) == 80
    assert evaluations_worth(spec_with(kind="classifier_free", scale=1)) == 40
    part = spec_with(kind="classifier_free", scale=2, interval=[0.3, 3])
    assert 40 < evaluations_worth(part) == KIND.evaluations(part) < 80
    heun = spec_with("sample.sampler=heun", kind="classifier_free", scale=2)
    assert evaluations_worth(heun) == 2 * 79


def test_a_weaker_network_has_the_average_of_the_sampling_unless_the_guide_names_one(spec_with):
    lengths = ("train.ema_sigma_rel=[0.05, 0.1]", "sample.ema_rate=null", "sample.ema_sigma_rel=0.07")
    for settings, changes in (({"at": 4}, (("ema_rate", None), ("ema_sigma_rel", 0.07))),
                              ({"ema_rate": 0.9}, (("ema_rate", 0.9), ("ema_sigma_rel", None)))):
        assert KIND.guide(spec_with(*lengths, kind="autoguidance", scale=2, **settings)).changes == changes
    other = spec_with(*lengths[:1], *lengths[2:], kind="autoguidance", scale=2, ema_rate=0.9)  # not what sample.ema_rate says
    assert other.sample.ema_rate == 0.9 and KIND.guide(other).changes == (("ema_rate", 0.9), ("ema_sigma_rel", None))
    with pytest.raises(UserError, match="guides the network by itself"):
        spec_with(*lengths, kind="autoguidance", scale=2)


def test_a_guide_is_counted_by_its_own_network(spec_with):
    large = spec_with("model.num_channels=16")
    assert evaluations_worth(spec_with(kind="autoguidance", at=4, scale=2)) == 80
    named = spec_with(kind="autoguidance", run="runs/large/run", scale=2)
    assert evaluations_worth(named) == 80  # there is no such run here
    in_study = named.model_copy(update={"sample": named.sample.model_copy(update={
        "guidance": named.sample.guidance.model_copy(update={"run": "large"})})})
    ratio = flops(large) / flops(named)
    assert ratio > 2 and evaluations_worth(in_study, {"large": large}) == pytest.approx(40 * (1 + ratio))
    assert run_cost(in_study, {"large": large}).sampling_flops == pytest.approx(10 * 40 * (flops(named) + flops(large)))


def test_a_classifier_costs_a_pass_forwards_and_one_back_to_the_image(spec_with):
    classifier = classifier_spec()
    spec = spec_with(kind="classifier", run="runs/a/b", scale=2)
    spec = spec.model_copy(update={"sample": spec.sample.model_copy(update={
        "guidance": spec.sample.guidance.model_copy(update={"run": "classifier"})})})
    assert KIND.evaluations(spec) == 80
    assert evaluations_worth(spec, {"classifier": classifier}) == pytest.approx(40 * (1 + 2 * flops(classifier) / flops(spec)))


def test_the_report_counts_a_guide_of_the_study_by_its_own_network(tmp_path):
    guided = SMALL_SPEC | {"sweep": {"list": [{"name": "large", "model.num_channels": 16}, {
        "name": "guided", "sample.guidance": {"kind": "autoguidance", "run": "large", "scale": 2}}]}}
    (tmp_path / "small.yaml").write_text(json.dumps(guided))
    study = load(tmp_path / "small.yaml")
    freeze(study, tmp_path / "runs")
    large, spec = (run.spec for run in study.runs)
    run = read_run(tmp_path / "runs" / study.name / "guided", {})
    assert run.cost.sampling_flops == run_cost(spec, {"large": large}).sampling_flops > run_cost(spec).sampling_flops
    assert {cost.steps: cost.flops for cost in sampling_costs(run, {})}[40] == run.cost.sampling_flops
    [statement] = sampling_statements(spec, run.cost)  # no other sampling, so no sentence on others
    assert f" × 10 × {40 * (1 + flops(large) / flops(spec)):.1f} = " in statement
    assert statement.endswith("An evaluation of the guide counts by the FLOP of the guide's own network.")


def test_the_spec_of_a_guide_of_another_study_is_read_once_and_again_where_it_changed(tmp_path, spec_with, monkeypatch):
    (tmp_path / "small.yaml").write_text(json.dumps(SMALL_SPEC))
    other = freeze(load(tmp_path / "small.yaml", ["model.num_channels=16"]), tmp_path / "runs")[0]
    spec, reads = spec_with(kind="autoguidance", run=str(other.path), scale=2), []
    ratio = flops(other.spec) / flops(spec)
    monkeypatch.setattr(directory, "load_frozen", lambda file: reads.append(file) or load_frozen(file))
    assert [evaluations_worth(spec) for _ in range(3)] == pytest.approx([40 * (1 + ratio)] * 3) and len(reads) == 1
    other.spec_file.write_text(other.spec_file.read_text().replace("num_channels: 16", "num_channels: 8"))
    assert evaluations_worth(spec) == 80 and len(reads) == 2
