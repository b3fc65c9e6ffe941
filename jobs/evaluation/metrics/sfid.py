"""sFID (Nash et al. 2021): the Fréchet distance of spatial features."""

from collections.abc import Callable

from jobs.evaluation.metrics.frechet import GaussianFit, Moments, frechet_distance


def compute(ours: Moments, theirs: GaussianFit, check: Callable[[], None]) -> dict[str, dict]:
    """sfid of samples against a reference, by the moments of their spatial features."""
    return {"sfid": {"value": frechet_distance(ours.fitted(), theirs)}}
