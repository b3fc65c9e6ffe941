"""Find the training images nearest to given images, to see whether a model copies its training data."""

import numpy as np

SEARCHED = 50_000  # images of a larger data set, evenly spaced
_BLOCK = 2048


def searched(count: int) -> np.ndarray:
    """Return the indices of the images to search out of `count`: all, or SEARCHED of them."""
    return np.arange(count) if count <= SEARCHED else np.linspace(0, count - 1, SEARCHED).astype(np.int64)


def nearest(queries: np.ndarray, images: np.ndarray, not_itself: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Find for each of `queries`, uint8 [Q, H, W, C], the nearest of `images`, uint8 [N, H, W, C], in pixel space.

    Returns indices int64 [Q] and distances float64 [Q]: root mean square over pixels and channels, in grey levels (0 .. 255).
    `not_itself`, int64 [Q], is for queries that are among the images: the index of each query, which does not count.
    """
    flat = queries.reshape(len(queries), -1).astype(np.float32)
    best, index = np.full(len(flat), np.inf, np.float32), np.zeros(len(flat), np.int64)
    candidates = searched(len(images))
    for start in range(0, len(candidates), _BLOCK):
        rows = candidates[start:start + _BLOCK]
        block = np.asarray(images[rows]).reshape(len(rows), -1).astype(np.float32)
        # The query's own square is left out: it does not change the order.
        squares = (block ** 2).sum(axis=1)[None] - 2 * flat @ block.T
        if not_itself is not None:
            squares[rows[None] == not_itself[:, None]] = np.inf
        near = squares.argmin(axis=1)
        found = squares[np.arange(len(flat)), near]
        index = np.where(found < best, rows[near], index)
        best = np.minimum(found, best)
    apart = np.asarray(images[index]).reshape(len(flat), -1).astype(np.float64) - flat
    return index, np.sqrt((apart ** 2).mean(axis=1))
