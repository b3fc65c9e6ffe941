"""The pass over the images, and which images are in which group and row."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_features import CPU

from jobs.errors import UserError
from jobs.evaluation.extraction import extract, random_groups
from jobs.evaluation.features import Features
from jobs.evaluation.metrics.fid import GROUPS
from jobs.evaluation.metrics.inception_score import ClassSums, inception_score
from jobs.evaluation.rows import spread
from jobs.parallel.group import process_group
from jobs.parallel.interruption import Stopped


def fake_features():
    """Three parts that are plain functions of the pixels."""
    def parts(images, wanted):
        x = images.flatten(1).double()
        return {"pool": x[:, :6], "spatial": x[:, 6:10] ** 2,
                "probabilities": x[:, 10:15] / x[:, 10:15].sum(dim=1, keepdim=True)}
    return Features("fake", "1" * 64, "", False, parts, {"pool": 6, "spatial": 4, "probabilities": 5})


@pytest.mark.parametrize("batch_size", [1, 5, 23, 100])
def test_statistics_do_not_depend_on_the_batch(tmp_path, batch_size):
    images = np.random.default_rng(0).integers(1, 256, (23, 4, 4, 1), np.uint8)
    flat = images.reshape(23, -1).astype(np.float64)
    with process_group(tmp_path / "meeting", threads=1) as group:
        found = extract(images, fake_features(), {"pool", "spatial", "probabilities", "rows"}, group, batch_size,
                        groups=3, most_rows=10)
    np.testing.assert_allclose(found.pool.fitted().covariance, np.cov(flat[:, :6], rowvar=False), rtol=1e-9)
    np.testing.assert_allclose(found.spatial.fitted().mean, (flat[:, 6:10] ** 2).mean(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(found.rows, flat[np.arange(10) * 23 // 10, :6])
    at_once = ClassSums(23, 5, CPU)
    at_once.add(torch.from_numpy(flat[:, 10:15] / flat[:, 10:15].sum(axis=1, keepdims=True)), 0)
    assert inception_score(found.probabilities)["value"] == pytest.approx(inception_score(at_once)["value"], rel=1e-12)


def test_a_stop_leaves_no_statistics_of_some_of_the_images(tmp_path):
    batches = []

    def stop_at_third():
        batches.append(1)
        if len(batches) == 3:
            raise Stopped
    with process_group(tmp_path / "meeting", threads=1) as group, pytest.raises(Stopped):
        extract(np.zeros((23, 4, 4, 1), np.uint8), fake_features(), {"pool"}, group, 5, on_batch=stop_at_third)
    assert len(batches) == 3


@pytest.mark.parametrize("part", ["pool", "spatial", "probabilities"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused_with_their_images(tmp_path, part, value):
    def overflowing(images, wanted):
        found = fake_features().extract(images, wanted)
        found[part][:, 1] = torch.where(images[:, 0, 0, 0] == 200, value, found[part][:, 1])
        return found
    images = np.random.default_rng(0).integers(1, 100, (23, 4, 4, 1), np.uint8)
    images[17, 0, 0, 0] = 200
    features = replace(fake_features(), extract=overflowing)
    with process_group(tmp_path / "meeting", threads=1) as group, \
            pytest.raises(UserError, match=rf"fake: its features of images 15 to 19 are not finite \({part}: 1 of "):
        extract(images, features, {"pool", "spatial", "probabilities"}, group, 5)


def test_images_without_content_are_counted(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (23, 4, 4, 3), np.uint8)
    images[[3, 20, 22]] = np.array([0, 255, 7], np.uint8)[:, None, None, None]
    images[4] = np.array([1, 2, 3])  # a colour is no grey
    with process_group(tmp_path / "meeting", threads=1) as group:
        assert extract(images, fake_features(), {"pool"}, group, 5).flat == 3


@given(count=st.integers(1, 500), most=st.integers(1, 600))
@settings(max_examples=50, deadline=None)
def test_rows_are_spread_over_all_images(count, most):
    kept = spread(count, most)
    assert len(kept) == min(count, most) == len(set(kept.tolist())) and kept[0] == 0 and kept[-1] < count
    assert np.diff(kept).max(initial=0) <= -(-count // len(kept))


def test_groups_are_of_equal_size_and_not_by_position():
    groups = random_groups(1003, GROUPS)
    assert sorted(set(groups.tolist())) == list(range(GROUPS))
    assert set(groups.bincount().tolist()) == {100, 101}
    assert (groups[:100].bincount(minlength=GROUPS) < 30).all()
