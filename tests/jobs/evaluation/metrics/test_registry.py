"""The tables of metrics and of built-in features: their modules give what the tables promise."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jobs.data.dataset import ImageData, open_data
from jobs.data.sources import Reference
from jobs.errors import UserError
from jobs.evaluation.features import Features, open_features
from jobs.evaluation.metrics.registry import measure, named, parts_needed
from jobs.evaluation.reference import reference_identity, reference_statistics
from jobs.parallel.group import process_group
from jobs.parallel.interruption import Stopped
from jobs.spec.features import BUILT_IN, metrics_beyond
from jobs.spec.metrics import HIGHER_IS_BETTER, METRICS, NUMBERS, Metric, Number


def parts(images, wanted):
    x = images.flatten(1).double() / 255
    return {"pool": x[:, :3], "spatial": x[:, 3:5], "probabilities": x[:, 5:9].softmax(dim=1)}


FEATURES = Features("fake", "1" * 64, "", False, parts, {"pool": 3, "spatial": 2, "probabilities": 4})


@pytest.fixture
def measured(tmp_path):
    """measured(metrics, count=40, check=...) -> the numbers of `count` images of noise against others."""
    def run(metrics, count=40, **options):
        ours, theirs = np.random.default_rng(0).integers(0, 256, (2, 40, 4, 4, 1), np.uint8)
        reference = Reference("theirs", ImageData(theirs, None, [], "theirs"), {})
        with process_group(tmp_path / "meeting", threads=1) as group:
            known = reference_statistics(reference, reference_identity(reference, tmp_path), FEATURES,
                                         parts_needed(metrics, of_reference=True), group, 16, tmp_path / "cache")
            return measure(ours[:count], metrics, FEATURES, known, group, 16, labels=np.arange(count) % 4, **options)
    return run


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_reports_the_numbers_of_the_table(measured, metric):
    found = measured([metric])
    assert list(found) == list(METRICS[metric].numbers) and all(np.isfinite(number["value"]) for number in found.values())


def test_the_order_is_the_tables_and_names_say_the_features(measured):
    assert list(named(measured(list(reversed(METRICS))), FEATURES)) == [
        f"{label} (fake)" for label in ("fid", "sfid", "inception score", "precision", "recall", "kid", "label seen")]
    assert HIGHER_IS_BETTER == {"inception_score", "precision", "recall", "label_accuracy"}


def test_a_failure_names_the_metric(measured):
    with pytest.raises(UserError, match="evaluate.metrics: kid: kid needs at least two images"):
        measured(["kid"], count=1)


def test_a_stop_between_metrics_stops_all(measured):
    def stop():
        raise Stopped
    with pytest.raises(Stopped):
        measured(["kid"], check=stop)


def test_a_new_metric_is_one_line_and_one_module(measured, monkeypatch):
    def compute(ours, theirs, check):
        return {"shift": {"value": torch.dist(ours.mean(dim=0), theirs.mean(dim=0)).item()}}
    monkeypatch.setitem(sys.modules, "shift", SimpleNamespace(compute=compute))
    monkeypatch.setitem(METRICS, "shift", Metric("shift", "rows", {"shift": Number("shift of the mean")}))
    monkeypatch.setitem(NUMBERS, "shift", METRICS["shift"].numbers["shift"])
    found = measured(["shift"])
    assert found["shift"]["value"] > 0 and named(found, FEATURES) == {"shift of the mean (fake)": found["shift"]["value"]}


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_features_give_what_the_table_says(tmp_path, monkeypatch, name):
    monkeypatch.setattr("jobs.evaluation.feature_classifier.STEPS", 2)
    with process_group(tmp_path / "meeting", threads=1) as group:
        features = open_features(name, 8, 1, Reference("digits", open_data("digits", 8, 1), {}), tmp_path / "cache", group)
    assert features.name == name and features.widths.keys() == BUILT_IN[name].gives
    refused = metrics_beyond(name, METRICS)
    features.check([metric for metric in METRICS if metric not in refused])
    for metric in refused:
        with pytest.raises(UserError, match=f"metrics: {metric} needs"):
            features.check([metric])
    assert metrics_beyond("network.pt", METRICS) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_metric_that_is_not_finite_is_refused(measured, monkeypatch, value):
    for found, name in (({"value": value}, "odd"), ({"value": 1.0, "standard_error": value}, "standard_error")):
        module = SimpleNamespace(compute=lambda ours, theirs, check, found=found: {"odd": found})
        monkeypatch.setitem(sys.modules, "odd_metric", module)
        monkeypatch.setitem(METRICS, "odd", Metric("odd_metric", "pool", {"odd": Number("odd")}))
        with pytest.raises(UserError, match=f"evaluate.metrics: odd: {name} is {value}, which ranks nothing"):
            measured(["odd"])


@pytest.mark.parametrize("metric", METRICS)
def test_the_least_number_of_images_is_the_least(measured, metric):
    least = METRICS[metric].least
    assert np.isfinite(next(iter(measured([metric], least).values()))["value"])
    if least > 1:
        with pytest.raises(UserError, match=f"evaluate.metrics: {metric}: "):
            measured([metric], least - 1)
