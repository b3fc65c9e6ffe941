"""The plan of a study, with and without a bench, and the files that hold a bench."""

import json
import os
import re
from pathlib import Path

import pytest
from made_benches import RATES, SPEC, bench_of, rate, spec_with, stage_resources

from jobs.cost.bench.file import bench_to_plan_by, read_bench
from jobs.cost.study_plan import plan_ahead, plan_study, remarks
from jobs.errors import UserError
from jobs.quantities import span
from jobs.spec.reading.file import load
from jobs.storage.files import read_json, write_json


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(json.dumps(SPEC))
    write_json(Path("bench-here.json"), bench_of(spec_with(), *RATES).model_dump(mode="json"))
    return tmp_path


def test_gpu_hours_are_of_all_gpus_of_all_nodes():
    spec = spec_with(resources=stage_resources(gpus_per_node=2, nodes=4, tasks_per_node=None))
    bench = bench_of(spec, rate("train", 8, 200.0), *RATES[1:], device="A GPU", gpus=1)
    study = type("Study", (), {"source": "spec.yaml", "runs": [type("Run", (), {"name": "a", "spec": spec})]})
    found = plan_study(study, bench, 120)
    # 40 s of training on eight ranks; one chunk of 40 x 400 steps at most; one batch of 20 at 500 a second.
    assert found.gpu_hours.median == pytest.approx(8 * (40 + 16 + 16) / 3600) and found.cpu_hours.median == 0


def test_a_range_of_nodes_is_planned_at_both_ends(folder):
    resources = stage_resources() | {"train": SPEC["resources"]["train"] | {"nodes": "1-3"}}
    Path("spec.yaml").write_text(json.dumps(SPEC | {"resources": resources}))
    plan = plan_study(load(Path("spec.yaml")), read_bench(Path("bench-here.json")), 120)
    # Of three nodes with two ranks each, four ranks share a batch of 64: 1000 x 16 images, 200 a second.
    [most] = [stage for stage in plan.stages if stage.stage == "train"]
    [fewest] = plan.fewest
    assert (most.ranks, most.seconds.median) == (4, pytest.approx(80))
    assert (fewest.ranks, fewest.seconds.median) == (2, pytest.approx(160))
    assert plan.seconds_per_step["run"] == {"sample": pytest.approx(0.02)}  # no speed to compare training with
    assert any("two rows, with the most and with the fewest" in line for line in remarks(plan))
    assert plan.cpu_hours.median == pytest.approx((80 * 6 + 2 * 24 + 2 * 24) / 3600)


def test_a_study_is_planned_where_there_is_a_bench(folder):
    study = load(Path("spec.yaml"))
    told = plan_ahead(study, folder / "study", bench_to_plan_by(None), 120)
    assert re.match(r"planned by bench-here.json \(\S+ on \S+\): 1 run: 0.116 CPU-hours", told)
    # 160 s for 1000 updates; 24 s for three chunks of 400 steps.
    assert read_json(folder / "study" / "plan.json")["seconds_per_step"] == {
        "run": {"train": pytest.approx(0.16), "sample": pytest.approx(0.02)}}


def test_status_compares_nothing_with_the_bench_of_another_network(folder):
    study = load(Path("spec.yaml"), ("model.num_channels=16",))
    told = plan_ahead(study, folder / "study", bench_to_plan_by(None), 120)
    assert "another network than this study's" in told and "CPU-hours" in told
    assert read_json(folder / "study" / "plan.json")["seconds_per_step"] == {}


def test_no_bench_or_one_that_does_not_fit_is_no_obstacle(folder):
    gpus = load(Path("spec.yaml"), ("resources.train.gpus_per_node=1",))
    found = plan_ahead(gpus, folder / "study", bench_to_plan_by(None), 120)
    assert found.startswith("not planned: resources.train.gpus_per_node: 1, but the bench")
    Path("bench-here.json").unlink()
    assert plan_ahead(gpus, folder / "study", bench_to_plan_by(None), 120) == ""
    assert not (folder / "study").exists()


def test_the_newest_bench_is_taken(folder):
    write_json(Path("bench-older.json"), {})
    os.utime("bench-older.json", (1, 1))
    assert bench_to_plan_by(None).name == "bench-here.json"


@pytest.mark.parametrize("content, problem", [
    (None, "not readable"), ("{", "Invalid JSON"), ("{}", "made: Field required"),
    ({"quick": "yes"}, "quick: Input should be a valid boolean"), ({"more": 1}, "more: Extra inputs are not permitted"),
    ({"rates": [rate("train", 1, -2.0).model_dump()]}, "quartiles must be above 0 and in order")])
def test_a_file_that_is_no_bench_is_refused(tmp_path, content, problem):
    file = tmp_path / "bench-x.json"
    if isinstance(content, dict):
        content = json.dumps(bench_of(spec_with(), *RATES).model_dump(mode="json") | content)
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=f"bench-x.json: .*{problem}"):
        read_bench(file)


@pytest.mark.parametrize("seconds, text", [((0.5,), "0.5 s"), ((59.0, 90.0), "0.983–1.5 min"), ((7200.0,), "2 h"),
                                           ((3.6e6, 7.2e6), "1,000–2,000 h")])
def test_spans_read_well(seconds, text):
    assert span(*seconds) == text
