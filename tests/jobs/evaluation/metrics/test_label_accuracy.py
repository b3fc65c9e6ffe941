"""The share of samples in which the features' classifier sees the class that was asked for."""

import numpy as np
import pytest
import torch
from made_features import CPU

from jobs.errors import UserError
from jobs.evaluation.features import Features
from jobs.evaluation.metrics.label_accuracy import LabelHits, share_with_interval
from jobs.evaluation.metrics.registry import measure
from jobs.evaluation.reference import ReferenceStatistics
from jobs.parallel.group import process_group

IMAGES = np.zeros((7, 2, 2, 1), np.uint8)
IMAGES[:, 0, 0, 0] = [0, 1, 2, 0, 1, 2, 2]  # the class that is seen in each
LABELS = np.array([0, 1, 2, 1, 2, 0, 2])  # 4 of 7 are right


def seen(images, wanted):
    x = images.flatten(1)
    return {"pool": x.double(), "probabilities": torch.nn.functional.one_hot(x[:, 0].long(), 3).double() * 0.8 + 0.1}


FEATURES = Features("seen", "2" * 64, "", False, seen, {"pool": 4, "probabilities": 3})


@pytest.fixture
def measured(tmp_path):
    def run(labels, batch_size=3, metrics=("label_accuracy",)):
        with process_group(tmp_path / "meeting", threads=1) as group:
            return measure(IMAGES, metrics, FEATURES, ReferenceStatistics(), group, batch_size, labels=labels)
    return run


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_four_of_seven(measured, batch_size):
    found = measured(LABELS, batch_size)["label_accuracy"]
    assert found["value"] == 4 / 7
    # Wilson 1927 for 4 of 7, as in tables: 0.2505 to 0.8418
    assert found["interval"] == pytest.approx([0.2505, 0.8418], abs=2e-4)


def test_all_and_none_have_an_interval_too():
    assert share_with_interval(10, 10) == {"value": 1.0, "interval": [pytest.approx(0.7225, abs=2e-4), 1.0]}
    assert share_with_interval(0, 10) == {"value": 0.0, "interval": [0.0, pytest.approx(0.2775, abs=2e-4)]}


def test_labels_are_looked_up_by_the_number_of_the_image():
    hits = LabelHits(torch.from_numpy(LABELS), CPU)
    probabilities = torch.eye(3)[torch.from_numpy(LABELS[3:5])]
    hits.add(probabilities, 3)
    assert hits.counts.tolist() == [2, 2]
    hits.add(probabilities, 0)
    assert hits.counts.tolist() == [2, 4]


def test_samples_without_labels_and_unknown_classes_are_refused(measured):
    with pytest.raises(UserError, match="metrics: label_accuracy needs samples with labels"):
        measured(None)
    with pytest.raises(UserError, match="label_accuracy: labels go from 0 to 3, but seen knows classes 0 to 2"):
        measured(np.array([0, 1, 2, 3, 0, 1, 2]))
    FEATURES.check_classes(["label_accuracy"], 3)
    FEATURES.check_classes(["fid"], 4)
    FEATURES.check_classes(["label_accuracy"], None)
    with pytest.raises(UserError, match=r"one output for each of 4 classes, .* but seen gives class probabilities \(3\)"):
        FEATURES.check_classes(["label_accuracy"], 4)
