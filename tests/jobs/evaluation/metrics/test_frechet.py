"""The Fréchet distance and the moments it is computed from, against closed forms and independent libraries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_features import CPU, moments_of, normal, random_features
from scipy.linalg import sqrtm
from torchmetrics.image.fid import _compute_fid

from jobs.evaluation.extraction import random_groups
from jobs.evaluation.metrics.frechet import Moments, frechet_distance


def rotation(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def spread(size, seed):
    """Variances over four orders of magnitude."""
    return 10 ** (4 * torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 2)


@pytest.mark.parametrize("size", [1, 2, 7, 60])
def test_distance_of_commuting_covariances_has_a_closed_form(size):
    # Covariances with the same eigenvectors: |m1 - m2|^2 + sum of (sigma1 - sigma2)^2 along them.
    v1, v2, turn = spread(size, 1), spread(size, 2), rotation(size)
    mean1, mean2 = torch.linspace(-1, 2, size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)
    expected = ((mean1 - mean2).square().sum() + (v1.sqrt() - v2.sqrt()).square().sum()).item()
    assert frechet_distance(normal(mean1, v1.diag()), normal(mean2, v2.diag())) == pytest.approx(expected, rel=1e-8)
    rotated = frechet_distance(normal(turn @ mean1, turn @ v1.diag() @ turn.T), normal(turn @ mean2, turn @ v2.diag() @ turn.T))
    assert rotated == pytest.approx(expected, rel=1e-8)


def test_distance_of_covariances_that_do_not_commute():
    # 2x2: tr (C1 C2)^(1/2) = sqrt(tr C1 C2 + 2 sqrt(det C1 C2)).
    c1 = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    c2 = torch.tensor([[1.0, -0.7], [-0.7, 3.0]], dtype=torch.float64)
    root = torch.sqrt((c1 @ c2).trace() + 2 * torch.sqrt(c1.det() * c2.det()))
    expected = (c1.trace() + c2.trace() - 2 * root).item()
    assert frechet_distance(normal([0, 0], c1), normal([0, 0], c2)) == pytest.approx(expected, rel=1e-8)
    # Any number of dimensions: with an orthogonal map of both, and independent further ones in common, it stays.
    big1, big2 = torch.block_diag(c1, torch.eye(5)), torch.block_diag(c2, torch.eye(5))
    turn, zero = rotation(7), torch.zeros(7)
    assert frechet_distance(normal(zero, turn @ big1 @ turn.T), normal(zero, turn @ big2 @ turn.T)) == \
        pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("count, size", [(2, 5), (10, 64), (30, 200)])
def test_singular_covariances(count, size):
    rng = np.random.default_rng(0)
    one, two = (moments_of(rng.random((count, size))).fitted() for _ in range(2))
    distance = frechet_distance(one, two)
    assert np.isfinite(distance) and distance > 0
    assert frechet_distance(two, one) == pytest.approx(distance, rel=1e-7)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-7 * one.covariance.trace().item())


def test_distance_of_covariances_of_rank_one_or_none():
    a, b = torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 5.0, 12.0], dtype=torch.float64)
    expected = (a @ a + b @ b - 2 * (a @ b).abs()).item()
    assert frechet_distance(normal([0] * 3, torch.outer(a, a)), normal([0] * 3, torch.outer(b, b))) == \
        pytest.approx(expected, rel=1e-7)
    nothing = torch.zeros(3, 3)
    assert frechet_distance(normal(a, nothing), normal([0] * 3, nothing)) == pytest.approx(25, rel=1e-12)


@pytest.mark.parametrize("size", [3, 40])
def test_distance_agrees_with_scipy_and_torchmetrics(size):
    one, two = moments_of(random_features(400, size, 1)).fitted(), moments_of(random_features(300, size, 2) + 0.1).fitted()
    root = sqrtm(one.covariance.numpy() @ two.covariance.numpy())
    expected = ((one.mean - two.mean).square().sum() + one.covariance.trace() + two.covariance.trace()).item() \
        - 2 * np.trace(root).real
    assert frechet_distance(one, two) == pytest.approx(expected, rel=1e-8)
    theirs = _compute_fid(one.mean, one.covariance, two.mean, two.covariance).item()
    assert frechet_distance(one, two) == pytest.approx(theirs, rel=1e-8)


@given(data=st.data(), count=st.integers(2, 60), size=st.integers(1, 8), mean=st.sampled_from([0, 1, 1000]))
@settings(max_examples=60, deadline=None)
def test_moments_are_numpys_however_features_are_batched(data, count, size, mean):
    features = np.random.default_rng(count).normal(mean, 1, (count, size)).astype(np.float32)
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=5)))
    groups = random_groups(count, 3)
    streamed = Moments(size, CPU, groups=3)
    for part, of_group in zip(np.split(features, cuts), np.split(groups.numpy(), cuts), strict=True):
        streamed.add(torch.from_numpy(part), torch.from_numpy(of_group))
    assert streamed.examples == count
    for without, kept in ((None, features), (0, features[groups.numpy() != 0])):
        if len(kept) < 2:
            with pytest.raises(ValueError, match="at least two images"):
                streamed.fitted(without)
            continue
        found = streamed.fitted(without)
        np.testing.assert_allclose(found.mean, kept.astype(np.float64).mean(axis=0), rtol=1e-12, atol=1e-12)
        expected = np.cov(kept.astype(np.float64), rowvar=False).reshape(size, size)
        np.testing.assert_allclose(found.covariance, expected, rtol=0, atol=1e-8)


def test_moments_of_more_rows_than_are_held_back():
    features = random_features(3000, 5)
    streamed = Moments(5, CPU)
    for part in np.split(features, 30):
        streamed.add(torch.from_numpy(part))
    assert sum(len(rows) for rows, _ in streamed.waiting) < 3000
    np.testing.assert_allclose(streamed.fitted().covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-9)


def test_features_that_are_not_finite_have_no_distance():
    with pytest.raises(ValueError, match="not finite"):
        moments_of(torch.tensor([[1.0, 2.0], [torch.nan, 1.0], [0.0, 0.0]])).fitted()


@pytest.mark.parametrize("theirs, message", [
    (normal([0.0, 0.0], [[1.0, float("nan")], [float("nan"), 1.0]]), "no square root|would be nan"),
    (normal([0.0, 0.0], [[-9.0, 0.0], [0.0, -9.0]]), "would be -16"),
    (normal([float("inf"), 0.0], np.eye(2)), "would be inf|would be nan")])
def test_no_distance_of_what_is_no_normal_distribution(theirs, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(normal([0.0, 0.0], np.eye(2)), theirs)


def test_rounding_below_nothing_is_nothing():
    features = random_features(400, 300)  # 300 eigenvalues over many orders of magnitude
    fit = moments_of(features.astype(np.float32)).fitted()
    scaled = moments_of(1e4 * features).fitted()
    assert frechet_distance(fit, fit) < 1e-6 * fit.covariance.trace() and frechet_distance(scaled, scaled) >= 0
