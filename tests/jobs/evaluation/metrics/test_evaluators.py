"""Metrics of given features, by the numbers of the field's evaluators."""

import json

import numpy as np
import pytest
import torch
from made_features import moments_of
from paths import GOLDEN

from jobs.evaluation.metrics import inception_score as scores
from jobs.evaluation.metrics.frechet import frechet_distance
from jobs.evaluation.metrics.kid import squared_discrepancy
from jobs.evaluation.metrics.precision_recall import precision_and_recall


@pytest.fixture(scope="module")
def expected():
    return json.loads((GOLDEN / "evaluators.json").read_text())


@pytest.fixture(scope="module")
def given():
    with np.load(GOLDEN / "evaluators.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def test_the_distances_of_two_sets(given, expected):
    ours, theirs = given["ours"], given["reference"]
    assert frechet_distance(moments_of(ours).fitted(), moments_of(theirs).fitted()) == pytest.approx(expected["fid"], rel=1e-8)
    discrepancy = squared_discrepancy(ours.double(), theirs.double())
    assert discrepancy == pytest.approx(expected["kid_all_rows_unbiased"], rel=1e-8)
    found = precision_and_recall(ours, theirs)
    assert [found[name]["value"] for name in ("precision", "recall")] == expected["precision_recall"]


@pytest.mark.parametrize("split, key", [(500, "inception_score"), (100, "inception_score_of_5")])
def test_the_inception_score_of_class_probabilities(given, expected, monkeypatch, split, key):
    monkeypatch.setattr(scores, "SPLIT", split)
    sums = scores.ClassSums(500, 10, torch.device("cpu"))
    sums.add(given["probabilities"], 0)
    found, wanted = scores.inception_score(sums), expected[key]
    wanted = wanted if isinstance(wanted, dict) else {"mean": wanted, "std": None}
    assert found["value"] == pytest.approx(wanted["mean"], rel=1e-8)
    assert found["standard_deviation"] == (wanted["std"] and pytest.approx(wanted["std"], rel=1e-8))
