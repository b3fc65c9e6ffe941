"""Kernel Inception Distance, against the definition and torchmetrics."""

import numpy as np
import pytest
import torch
from made_features import random_features
from torchmetrics.image.kid import poly_mmd

from jobs.evaluation.metrics.kid import kernel_distance, squared_discrepancy


def test_discrepancy_agrees_with_torchmetrics():
    one, two = (torch.from_numpy(random_features(count, 12, seed)).double() for count, seed in ((80, 1), (80, 2)))
    assert squared_discrepancy(one, two) == pytest.approx(poly_mmd(one, two, 3, None, 1.0).item(), rel=1e-9)
    # By the definition, for sets of different size.
    two = two[:50]
    k = lambda x, y: (x @ y / 12 + 1).item() ** 3  # noqa: E731
    within = [np.mean([k(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]) for rows in (one, two)]
    expected = sum(within) - 2 * np.mean([k(x, y) for x in one for y in two])
    assert squared_discrepancy(one, two) == pytest.approx(expected, rel=1e-8)


def test_kid_is_unbiased_and_its_error_is_that_of_the_value():
    rng = np.random.default_rng(0)
    results = [kernel_distance(*(torch.from_numpy(rng.normal(size=(count, 4))) for count in (200, 300))) for _ in range(60)]
    values, errors = (np.array([result[key] for result in results]) for key in ("value", "standard_error"))
    assert abs(values.mean()) < 3 * values.std() / 60 ** 0.5
    assert values.std() == pytest.approx(errors.mean(), rel=0.35)


def test_every_row_is_in_one_subset():
    rng = np.random.default_rng(0)
    ours, theirs = torch.from_numpy(rng.normal(size=(64, 4))), torch.from_numpy(rng.normal(size=(1500, 4)))
    assert "mean of 10 disjoint subsets of 6 samples against 150" in kernel_distance(ours, theirs)["note"]
    # With subsets known in advance the mean over them is the definition's.
    generator = torch.Generator().manual_seed(5)
    deal = [rows[torch.randperm(len(rows), generator=generator)].tensor_split(10) for rows in (ours, theirs)]
    expected = np.mean([squared_discrepancy(x, y) for x, y in zip(*deal, strict=True)])
    assert kernel_distance(ours, theirs, seed=5)["value"] == pytest.approx(expected, rel=1e-12)
    assert sum(len(rows) for rows in deal[0]) == 64
    assert kernel_distance(ours[:3], theirs)["standard_error"] is None
    with pytest.raises(ValueError, match="at least two images"):
        kernel_distance(ours[:1], theirs)
