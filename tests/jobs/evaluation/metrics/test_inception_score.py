"""Inception Score of distributions whose score is known."""

import numpy as np
import pytest
import torch
from made_features import CPU

from jobs.evaluation.metrics.inception_score import SPLIT, ClassSums, inception_score


def score_of(probabilities, batch_size=64):
    sums = ClassSums(len(probabilities), probabilities.shape[1], CPU)
    for start in range(0, len(probabilities), batch_size):
        sums.add(torch.as_tensor(probabilities[start:start + batch_size]), start)
    return inception_score(sums)


def test_score_of_known_distributions():
    assert score_of(np.full((300, 7), 1 / 7))["value"] == pytest.approx(1, rel=1e-12)
    assert score_of(np.ones((300, 1)))["value"] == 1
    assert score_of(np.eye(10)[np.arange(500) % 10])["value"] == pytest.approx(10, rel=1e-12)
    two_sure = np.array([[0.9, 0.1], [0.1, 0.9]] * 50)  # marginal 1/2: exp(log 2 - H(0.9))
    entropy = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert score_of(two_sure) == {"value": pytest.approx(2 * np.exp(-entropy), rel=1e-12), "standard_deviation": None}


@pytest.mark.parametrize("batch_size", [64, 999, 20_000])
def test_score_is_the_mean_over_splits_in_order(batch_size):
    assert SPLIT == 5000  # as published scores have it
    # Split by split: 10 classes, 2 classes, and a short one of a single class.
    labels = np.concatenate([np.arange(SPLIT) % 10, np.arange(SPLIT) % 2, np.zeros(5, int)])
    found = score_of(np.eye(10)[labels], batch_size)
    assert found["value"] == pytest.approx(np.mean([10, 2, 1]), rel=1e-12)
    assert found["standard_deviation"] == pytest.approx(np.std([10, 2, 1]), rel=1e-12)
