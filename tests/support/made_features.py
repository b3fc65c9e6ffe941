"""Features that are not a network's, and what is fitted to them."""

import numpy as np
import torch

from jobs.evaluation.extraction import random_groups
from jobs.evaluation.metrics.frechet import GaussianFit, Moments

CPU = torch.device("cpu")


def normal(mean, covariance):
    return GaussianFit(torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(covariance, dtype=torch.float64))


def moments_of(features, groups=1):
    features = torch.as_tensor(features)
    moments = Moments(features.shape[1], CPU, groups)
    moments.add(features, random_groups(len(features), groups))
    return moments


def random_features(count, size, seed=0):
    """Like a network's: not negative, of very different variances, correlated."""
    rng = np.random.default_rng(seed)
    return np.abs(rng.normal(size=(count, size)) @ (rng.normal(size=(size, size)) / np.arange(1, size + 1))).astype(np.float32)
