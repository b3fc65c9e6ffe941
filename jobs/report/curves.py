"""The points of long curves that the report draws, and writes to report.csv."""

import numpy as np

POINTS = 200  # of a curve


def smoothed(points: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return steps [N] and values [N] of a logged curve, N at most POINTS: neighbours are averaged where there are more.

    Values that are not finite are left out.
    """
    steps = np.array(sorted(step for step, value in points.items() if np.isfinite(value)), dtype=np.float64)
    values = np.array([points[int(step)] for step in steps])
    parts = np.array_split(np.arange(len(steps)), min(len(steps), POINTS)) if len(steps) else []
    return np.array([steps[part].mean() for part in parts]), np.array([values[part].mean() for part in parts])


def bound_points(vb: np.ndarray) -> np.ndarray:
    """Return the timesteps to draw of the bound's terms `vb` [T]. They are dense near 0, where the terms are large."""
    t = np.unique(np.geomspace(1, len(vb), POINTS).round().astype(int)) - 1
    return t[np.isfinite(vb[t]) & (vb[t] > 0)]


def evenly_spaced(count: int) -> np.ndarray:
    """Return at most POINTS of the indices 0 .. count - 1."""
    return np.unique(np.linspace(0, count - 1, POINTS).round().astype(int))
