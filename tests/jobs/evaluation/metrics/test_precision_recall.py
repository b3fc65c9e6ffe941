"""Precision and recall, on constructed sets and against scikit-learn."""

import itertools

import numpy as np
import pytest
import torch
from made_features import random_features
from sklearn.neighbors import NearestNeighbors

from jobs.evaluation.metrics.precision_recall import precision_and_recall, radii


def test_precision_and_recall_of_sets_that_are_known():
    grid = torch.tensor(list(itertools.product(range(10), range(10))), dtype=torch.float32)
    same = precision_and_recall(grid, grid)
    assert same == {"precision": {"value": 1.0}, "recall": {"value": 1.0}}
    far = precision_and_recall(grid, grid + 1000)
    assert far == {"precision": {"value": 0.0}, "recall": {"value": 0.0}}
    # Half of the samples on the reference, half far off; and tight clusters cover a part of a reference only.
    half = torch.cat([grid, grid + 1000])
    assert precision_and_recall(half, grid)["precision"]["value"] == 0.5
    left = grid[grid[:, 0] < 5] * 1.0
    assert precision_and_recall(left, grid)["precision"]["value"] == 1.0
    assert precision_and_recall(left, grid)["recall"]["value"] == 0.6  # the radii reach one column further


def test_the_ball_reaches_to_the_third_other_neighbour_and_its_rim_is_inside():
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0], [15.0]])
    assert radii(line).sqrt().tolist() == [7, 6, 4, 7, 14]
    samples = torch.tensor([[-7.0], [-7.01], [29.0], [29.01], [5.0], [6.0]])
    assert precision_and_recall(samples, line)["precision"]["value"] == pytest.approx(4 / 6)


def test_copies_count_as_neighbours_and_lie_in_their_own_ball():
    copies = torch.rand(1, 2048, generator=torch.Generator().manual_seed(0)).mul(300).repeat(5, 1)
    assert radii(copies).tolist() == [0] * 5
    found = precision_and_recall(copies, copies + 0)
    assert (found["precision"]["value"], found["recall"]["value"]) == (1, 1)


@pytest.mark.parametrize("block", [7, 2048])
def test_precision_and_recall_agree_with_scikit_learn(block, monkeypatch):
    monkeypatch.setattr("jobs.evaluation.metrics.precision_recall._BLOCK", block)
    ours, theirs = random_features(90, 6, 1), random_features(70, 6, 2) * 1.1

    def share(rows, others):
        radius = NearestNeighbors(n_neighbors=4).fit(others).kneighbors(others)[0][:, 3]
        return np.mean([(np.linalg.norm(others.astype(float) - row, axis=1) <= radius).any() for row in rows.astype(float)])
    found = precision_and_recall(torch.from_numpy(ours), torch.from_numpy(theirs))
    expected = share(ours, theirs), share(theirs, ours)
    assert 0.2 < min(expected) and max(expected) < 1
    assert (found["precision"]["value"], found["recall"]["value"]) == pytest.approx(expected)


def test_too_few_for_neighbours():
    with pytest.raises(ValueError, match="more than 3 images"):
        precision_and_recall(torch.zeros(3, 2), torch.zeros(9, 2))
