"""The report of classifiers of noisy images, alone and beside diffusion models: they are compared by what both have."""

import json
from pathlib import Path

import pytest
from finished_study import finish
from small_classifier import CLASSIFIER_SPEC, MIXED
from small_runs import SMALL_SPEC

from jobs.report.study import read_study
from jobs.report.write import report
from jobs.run.board import Board
from jobs.run.directory import RunDir
from jobs.run.study.freezing import freeze
from jobs.spec.reading.file import load
from jobs.storage.files import read_json, write_json


def finish_classifier(run: RunDir, accuracy: float) -> None:
    """Leave the files that a classifier's run leaves, without computing them."""
    board = Board(run.tensorboard, 0)
    for step in (4, 8, 12):
        quarters = {f"{term}_q{quarter}": step / (40 + quarter) for term in ("loss", "accuracy") for quarter in range(4)}
        board.scalars({"loss": 1 / step, "accuracy": step / 40, "samples": 12 * step, "images_per_second": 24.0} | quarters, step)
    board.close()
    lines = [{"stage": stage, "state": "done", "started": 1e9, "seconds": 30.0, "world_size": 2, "device": "cpu"}
             for stage in ("train", "evaluate")]
    (run.path / "stages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    numbers = {key: {"value": value, "standard_error": 0.01, "quarters": [value + 0.3, value + 0.1, value - 0.1, value - 0.3],
                     "examples": 297, "data": "digits-test"} for key, value in (("accuracy", accuracy), ("cross_entropy", 1.5))}
    write_json(run.evaluation, {"weights_sha256": "0" * 64, "samples": None, "settings": {}, "features": None, "reference": None,
                                "metrics": {}, "curve": [], **numbers, "headline": {"accuracy": accuracy, "cross entropy": 1.5}})


@pytest.fixture
def mixed(tmp_path) -> Path:
    """A finished study of a classifier and a diffusion model."""
    spec = tmp_path / "mixed.yaml"
    model = SMALL_SPEC["model"] | {"num_head_channels": 4}
    spec.write_text(json.dumps(SMALL_SPEC | {"model": model, "sweep": MIXED}))
    classifier, conditional = freeze(load(spec), tmp_path / "runs")
    finish_classifier(classifier, 0.6)
    finish(conditional, 5.0)
    return classifier.path.parent


def test_a_classifier_is_not_ranked_by_fid(mixed):
    page, study = report(mixed).read_text(encoding="utf-8"), read_study(mixed)
    assert [run.remarks for run in study.runs] == [[], []]
    assert study.metrics[0] == "fid (pixels)" and study.metrics[-3:] == ["accuracy", "cross entropy", "bits/dim"]
    assert study.main.name == "conditional"
    assert [point.name for point in study.points] == ["classifier", "conditional"] and study.effects == []
    assert study.question.startswith("How good is cosine noise with the hybrid loss over 40 diffusion steps on digits")
    assert "fid (pixels): 5 (interval 4 to 6), conditional." in study.answer
    assert "accuracy: 0.6 (standard error 0.01), classifier." in study.answer
    assert study.fields["kind"] == ["noisy_classifier", "diffusion"]
    assert '<section id="quarters">' in page and "Guessing is right in 10 % of cases." in page
    assert page.count("classifier") > 3 and "Accuracy" in page
    found = read_json(mixed / "report.json")
    assert found["runs"][0]["metrics"]["accuracy"]["quarters"] == pytest.approx([0.9, 0.7, 0.5, 0.3])
    assert set(found["runs"][0]["flops"]) == {"train", "evaluate"} and found["runs"][0]["samples"] is None
    assert "classifier,quarter,accuracy,4,0.3" in (mixed / "report.csv").read_text()
    rows = [line for line in (mixed / "report.md").read_text().splitlines() if line.startswith("| noisy_classifier")]
    assert len(rows) == 1 and "**" not in rows[0]  # nothing is best of one


def test_a_study_of_classifiers_alone_ranks_them_by_accuracy(tmp_path):
    spec = tmp_path / "x.yaml"
    spec.write_text(json.dumps(CLASSIFIER_SPEC | {"sweep": {"grid": {"train.lr": [0.001, 0.01]}}}))
    runs = freeze(load(spec), tmp_path / "runs")
    for run, accuracy in zip(runs, (0.5, 0.7), strict=True):
        finish_classifier(run, accuracy)
    study, page = read_study(runs[0].path.parent), report(runs[0].path.parent).read_text(encoding="utf-8")
    assert study.main.name == "lr=0.01" and study.metrics == ["accuracy", "cross entropy"]
    assert study.answer[0].startswith("train.lr: 0.01 is best in accuracy")
    assert "Sampling by length of the chain" not in page and "Sampling: F" not in page
    for section in ("runs", "effects", "training", "quarters", "cost", "reproduce"):
        assert f'<section id="{section}">' in page, section
    for section in ("likelihood", "pictures", "published", "curves"):
        assert f'<section id="{section}">' not in page, section
    assert [run.remarks for run in study.runs] == [[], []]


def test_points_of_a_list_that_set_different_keys_are_settings_of_their_own(tmp_path):
    spec = tmp_path / "x.yaml"
    points = [{"name": "plain"}, {"name": "fast", "train.lr": 0.1}, {"name": "wide", "model.num_channels": 16}]
    spec.write_text(json.dumps(CLASSIFIER_SPEC | {"sweep": {"list": points}}))
    runs = freeze(load(spec), tmp_path / "runs")
    for run in runs:
        finish_classifier(run, 0.5)
    study = read_study(runs[0].path.parent)
    assert [point.name for point in study.points] == ["plain", "fast", "wide"] and not study.repeated
    assert study.fields == {"train.lr": ["0.001", "0.1"], "model.num_channels": ["8", "16"]}
