"""The training images nearest to given images: a look at whether a model copies what it was trained on."""

import numpy as np

SEARCHED = 50_000  # of a larger data set so many are searched, evenly spaced
_BLOCK = 2048


def searched(count: int) -> np.ndarray:
    """Indices of the images that are searched, out of `count`: all, or SEARCHED of them."""
    return np.arange(count) if count <= SEARCHED else np.linspace(0, count - 1, SEARCHED).astype(np.int64)


def nearest(queries: np.ndarray, images: np.ndarray, not_itself: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """For each of `queries` uint8 [Q, H, W, C] the index int64 [Q] of the nearest of `images` [N, H, W, C] in pixel space.

    Also the distances float64 [Q]: root mean square over pixels and channels, in grey levels (0 .. 255). `not_itself`
    int64 [Q]: of each query the index that does not count, where the queries are among the images.
    """
    flat = queries.reshape(len(queries), -1).astype(np.float32)
    best, index = np.full(len(flat), np.inf, np.float32), np.zeros(len(flat), np.int64)
    candidates = searched(len(images))
    for start in range(0, len(candidates), _BLOCK):
        rows = candidates[start:start + _BLOCK]
        block = np.asarray(images[rows]).reshape(len(rows), -1).astype(np.float32)
        squares = (block ** 2).sum(axis=1)[None] - 2 * flat @ block.T  # the query's own square changes no order
        if not_itself is not None:
            squares[rows[None] == not_itself[:, None]] = np.inf
        near = squares.argmin(axis=1)
        found = squares[np.arange(len(flat)), near]
        index = np.where(found < best, rows[near], index)
        best = np.minimum(found, best)
    apart = np.asarray(images[index]).reshape(len(flat), -1).astype(np.float64) - flat
    return index, np.sqrt((apart ** 2).mean(axis=1))
