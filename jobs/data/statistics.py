"""Check means and covariances that a file gives as the reference, before hours of training rest on them. No torch here."""

import numpy as np

SYMMETRIC = 1e-4
"""Largest difference between an entry and its mirror image, relative to the largest entry; rounding to float32 leaves 1e-7."""
NEGATIVE = 1e-4
"""Size of the largest negative eigenvalue, relative to the largest one, that rounding explains."""


def statistics_problem(mean: np.ndarray, covariance: np.ndarray, mean_name: str, covariance_name: str) -> str | None:
    """Return why the arrays of these names are no mean and covariance of features, such as "sigma has nan"; None if they are."""
    arrays = {mean_name: mean, covariance_name: covariance}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            return f"{name} is {array.dtype}; it must be real numbers"
    if mean.ndim != 1 or not len(mean) or covariance.shape != (len(mean), len(mean)):
        shapes = f"{list(mean.shape)} and {list(covariance.shape)}"
        return f"{mean_name} and {covariance_name} are {shapes}; they must be [D] and [D, D]"
    for name, array in arrays.items():
        bad = array[~np.isfinite(array.astype(np.float64))]
        if len(bad):
            return f"{name} has {bad[0]} in {len(bad)} of {array.size} values; they must be finite"
    problem = _covariance_problem(covariance.astype(np.float64))
    return f"{covariance_name} {problem}" if problem else None


def _covariance_problem(covariance: np.ndarray) -> str | None:
    largest = np.abs(covariance).max()
    if not largest:
        return "is 0 everywhere, as for a single image; a reference needs several"
    covariance = covariance / largest  # squares of numbers near the ends of float64 would be infinite
    if (difference := np.abs(covariance - covariance.T).max()) > SYMMETRIC:
        return f"is no covariance: it is not symmetric (by up to {difference:.2g} of its largest entry)"
    covariance = (covariance + covariance.T) / 2
    try:  # exists exactly where no eigenvalue is below -NEGATIVE * top, and takes a tenth of the time of the eigenvalues
        np.linalg.cholesky(covariance + NEGATIVE * _top_eigenvalue(covariance) * np.eye(len(covariance)))
    except np.linalg.LinAlgError:
        values = np.linalg.eigvalsh(covariance)
        if values[0] < -NEGATIVE * values[-1]:
            return f"is no covariance: its eigenvalues go from {values[0] * largest:.3g} to {values[-1] * largest:.3g}"
    return None


def _top_eigenvalue(matrix: np.ndarray) -> float:
    """Return about the largest eigenvalue of a symmetric matrix, and never more than the largest size of one: power iteration."""
    vector = np.random.RandomState(0).standard_normal(len(matrix))
    for _ in range(30):
        vector = matrix @ vector
        vector /= max(np.linalg.norm(vector), np.finfo(np.float64).tiny)
    return max(float(vector @ (matrix @ vector)), 0.0)
