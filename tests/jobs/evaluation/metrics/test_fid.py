"""FID's interval and extrapolation: the error of a finite number of samples."""

import numpy as np
import torch
from made_features import moments_of, normal

from jobs.evaluation.metrics.fid import GROUPS, distance_with_interval


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
