"""Means and covariances of a file: those of features are taken, and what cannot be theirs is refused in one sentence."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data.sources import open_reference
from jobs.data.statistics import statistics_problem
from jobs.errors import UserError

FEATURES = np.random.default_rng(0).standard_normal((60, 8)) * np.arange(1, 9)
MU, SIGMA = FEATURES.mean(axis=0), np.cov(FEATURES, rowvar=False)


def problem(mean=MU, covariance=SIGMA):
    return statistics_problem(mean, covariance, "mu", "sigma")


def changed(matrix, row, column, value):
    matrix = matrix.copy()
    matrix[row, column] = value
    return matrix


def test_those_of_features_are_taken():
    assert problem() is None
    assert problem(MU.astype(np.float32), SIGMA.astype(np.float32)) is None
    assert problem(MU.astype(np.float16), SIGMA.astype(np.float16)) is None  # rounds eigenvalues by 1e-4 of the largest
    assert problem(np.zeros(3), np.diag([1.0, 0.0, 0.0])) is None  # features that never change
    assert problem(np.zeros(1, int), np.ones((1, 1), int)) is None
    assert problem(1e200 * MU, 1e300 * SIGMA) is None and problem(1e-200 * MU, 1e-300 * SIGMA) is None


@given(count=st.integers(2, 40), width=st.integers(1, 30), power=st.integers(-8, 8), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_those_of_fewer_images_than_features_are_taken_in_float32_too(count, width, power, seed):
    features = np.random.default_rng(seed).standard_normal((count, width)) * 10.0 ** power * 2.0 ** -np.arange(width)
    mean, covariance = features.mean(axis=0), np.cov(features, rowvar=False).reshape(width, width)
    assert problem(mean, covariance) is None
    assert problem(mean.astype(np.float32), covariance.astype(np.float32)) is None


@pytest.mark.parametrize("mean, covariance, message", [
    (MU * np.nan, SIGMA, r"mu has nan in 8 of 8 values"), (changed(MU[None], 0, 2, np.inf)[0], SIGMA, "mu has inf in 1 of 8"),
    (MU, SIGMA * np.nan, "sigma has nan in 64 of 64 values; they must be finite"),
    (MU, changed(SIGMA, 3, 4, np.inf), "sigma has inf in 1"),
    (MU, changed(SIGMA, 0, 0, -np.inf), "sigma has -inf in 1"),
    (MU, np.triu(SIGMA), "sigma is no covariance: it is not symmetric"), (MU, changed(SIGMA, 0, 7, 9.0), "it is not symmetric"),
    (MU, -SIGMA, "sigma is no covariance: its eigenvalues go from -"), (MU, SIGMA - 2 * np.eye(8), "its eigenvalues go from -"),
    (MU, changed(SIGMA, 0, 0, -1.0), "its eigenvalues go from -"), (MU, changed(np.eye(8), 5, 5, -1e-3), "from -0.001 to 1"),
    (MU, np.zeros((8, 8)), "sigma is 0 everywhere"),
    (MU, SIGMA + 0.3j, "sigma is complex128; it must be real"), (MU + 0j, SIGMA, "mu is complex128"),
    (MU.astype(str), SIGMA, "mu is <U32"), (MU > 0, SIGMA, "mu is bool"),
    (MU, SIGMA[:5, :5], r"are \[8\] and \[5, 5\]"), (MU, SIGMA[:5], r"are \[8\] and \[5, 8\]"),
    (MU[None], SIGMA, r"\[1, 8\] and"),
    (MU, SIGMA.reshape(-1), r"and \[64\]"), (np.float64(3), SIGMA, r"are \[\] and"),
    (MU[:0], SIGMA[:0, :0], r"\[0\] and \[0, 0\]")])
def test_others_are_refused(tmp_path, mean, covariance, message):
    file = str(tmp_path / "reference.npz")
    for names in (("mu", "sigma"), ("mu_s", "sigma_s")):
        good = {} if names[0] == "mu" else {"mu": MU, "sigma": SIGMA}
        np.savez(file, **good, **dict(zip(names, (mean, covariance), strict=True)))
        with pytest.raises(UserError, match=message.replace("mu ", f"{names[0]} ").replace("sigma ", f"{names[1]} ")) as refusal:
            open_reference(file, 8, 3)
        assert str(refusal.value).startswith(file) and "\n" not in str(refusal.value)


def test_the_width_of_inception_takes_a_second_or_two():
    features = np.random.default_rng(0).standard_normal((2100, 2048))
    covariance, began = np.cov(features, rowvar=False), time.process_time()
    assert problem(features.mean(axis=0), covariance) is None
    assert time.process_time() - began < 10
