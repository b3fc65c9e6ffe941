"""The metrics' definitions, against closed forms, constructed sets and an independent library."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from sklearn.neighbors import NearestNeighbors
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from jobs.evaluation.extraction import _random_groups, _spread, extract
from jobs.evaluation.features import Features
from jobs.evaluation.metrics.fid import GROUPS, distance_with_interval
from jobs.evaluation.metrics.frechet import GaussianFit, Moments, frechet_distance
from jobs.evaluation.metrics.inception_score import SPLIT, ClassSums, inception_score
from jobs.evaluation.metrics.kid import kernel_distance, squared_discrepancy
from jobs.evaluation.metrics.precision_recall import precision_and_recall, radii
from jobs.parallel.group import process_group
from jobs.parallel.interruption import Stopped

CPU = torch.device("cpu")


def normal(mean, covariance):
    return GaussianFit(torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(covariance, dtype=torch.float64))


def rotation(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def spread(size, seed):
    """Variances over four orders of magnitude."""
    return 10 ** (4 * torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 2)


def moments_of(features, groups=1):
    features = torch.as_tensor(features)
    moments = Moments(features.shape[1], CPU, groups)
    moments.add(features, _random_groups(len(features), groups))
    return moments


def random_features(count, size, seed=0):
    """Like a network's: not negative, of very different variances, correlated."""
    rng = np.random.default_rng(seed)
    return np.abs(rng.normal(size=(count, size)) @ (rng.normal(size=(size, size)) / np.arange(1, size + 1))).astype(np.float32)


# Fréchet distance -----------------------------------------------------------------------------------------------------

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
    groups = _random_groups(count, 3)
    streamed = Moments(size, CPU, groups=3)
    for part, of_group in zip(np.split(features, cuts), np.split(groups.numpy(), cuts)):
        streamed.add(torch.from_numpy(part), torch.from_numpy(of_group))
    for without, kept in ((None, features), (0, features[groups.numpy() != 0])):
        if len(kept) < 2:
            with pytest.raises(ValueError, match="at least two images"):
                streamed.fitted(without)
            continue
        found = streamed.fitted(without)
        assert found.count == len(kept)
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


# What a finite number of samples means --------------------------------------------------------------------------------

def draws(count, seed, size=16):
    """From a normal, at a distance from `TARGET` that is known."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(count, size)) * np.arange(1, size + 1) ** -0.5)


TARGET = normal([0.1] * 16, torch.arange(1, 17).double().reciprocal().diag() * 1.21)
TRUE = 16 * 0.01 + (0.1 ** 2 * torch.arange(1, 17).double().reciprocal()).sum().item()


def test_extrapolation_takes_the_bias_away_and_intervals_cover():
    results = [distance_with_interval(moments_of(draws(200, seed), GROUPS), TARGET) for seed in range(40)]
    values, infinities = (np.array([result[key] for result in results]) for key in ("value", "infinity"))
    bias, left = values.mean() - TRUE, infinities.mean() - TRUE
    assert bias > 0.05 and abs(left) < bias / 5
    lows, highs = np.array([result["interval"] for result in results]).T
    centre = values.mean()  # the value expected of 200 samples
    assert 0.85 <= np.mean((lows < centre) & (centre < highs))
    assert np.mean(highs - lows) < 8 * values.std()


def test_what_is_unsound_is_left_out_and_said():
    few, some, many = (distance_with_interval(moments_of(draws(count, 0), GROUPS), TARGET) for count in (19, 63, 64))
    assert few["interval"] is None and few["infinity"] is None and "no interval below 20 samples" in few["note"]
    assert some["infinity"] is None and some["interval"][0] < some["value"] < some["interval"][1]
    assert "not extrapolated to infinity: that needs 64 samples, 4 for each of 16 features" in some["note"]
    assert many["infinity"] < many["value"] and "of 64 samples: biased upwards against the 50,000" in many["note"]


def test_groups_are_of_equal_size_and_not_by_position():
    groups = _random_groups(1003, GROUPS)
    assert sorted(set(groups.tolist())) == list(range(GROUPS))
    assert set(groups.bincount().tolist()) == {100, 101}
    assert (groups[:100].bincount(minlength=GROUPS) < 30).all()


# Inception Score ------------------------------------------------------------------------------------------------------

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


# Precision and recall -------------------------------------------------------------------------------------------------

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


# Kernel distance ------------------------------------------------------------------------------------------------------

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
    expected = np.mean([squared_discrepancy(x, y) for x, y in zip(*deal)])
    assert kernel_distance(ours, theirs, seed=5)["value"] == pytest.approx(expected, rel=1e-12)
    assert sum(len(rows) for rows in deal[0]) == 64
    assert kernel_distance(ours[:3], theirs)["standard_error"] is None
    with pytest.raises(ValueError, match="at least two images"):
        kernel_distance(ours[:1], theirs)


# The pass over the images ---------------------------------------------------------------------------------------------

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
    assert inception_score(found.probabilities)["value"] == pytest.approx(
        score_of(flat[:, 10:15] / flat[:, 10:15].sum(axis=1, keepdims=True))["value"], rel=1e-12)


def test_a_stop_leaves_no_statistics_of_some_of_the_images(tmp_path):
    batches = []

    def stop_at_third():
        batches.append(1)
        if len(batches) == 3:
            raise Stopped
    with process_group(tmp_path / "meeting", threads=1) as group, pytest.raises(Stopped):
        extract(np.zeros((23, 4, 4, 1), np.uint8), fake_features(), {"pool"}, group, 5, on_batch=stop_at_third)
    assert len(batches) == 3


@given(count=st.integers(1, 500), most=st.integers(1, 600))
@settings(max_examples=50, deadline=None)
def test_rows_are_spread_over_all_images(count, most):
    kept = _spread(count, most)
    assert len(kept) == min(count, most) == len(set(kept.tolist())) and kept[0] == 0 and kept[-1] < count
    assert np.diff(kept).max(initial=0) <= -(-count // len(kept))
