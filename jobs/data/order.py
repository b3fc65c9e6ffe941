"""Choose the examples of each training step, and which of them are mirrored, from the seed and the step alone."""

from functools import lru_cache

import numpy as np

# Keep the random streams of one seed apart.
_SHUFFLE, _FLIP = 0, 1


def batch_indices(num_examples: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Indices int64 [batch_size] of the global batch of training step `step`, counted from 0.

    Batches are cut one after the other from an endless sequence of epochs; each epoch is a permutation of all examples.
    A batch may straddle epochs and may be larger than one epoch. The result depends on the arguments only, so ranks and
    resumed runs agree on the batch without communication.
    """
    first = step * batch_size
    epochs = range(first // num_examples, (first + batch_size - 1) // num_examples + 1)
    parts = []
    for epoch in epochs:
        begin = max(first - epoch * num_examples, 0)
        end = first + batch_size - epoch * num_examples
        parts.append(_permutation(num_examples, epoch, seed)[begin:end])
    return np.concatenate(parts)


@lru_cache(maxsize=2)  # a batch no larger than an epoch straddles at most two
def _permutation(num_examples: int, epoch: int, seed: int) -> np.ndarray:
    # Sort raw bits instead of using Generator.permutation: numpy keeps only raw bits the same in later releases.
    return np.argsort(_random_bits(num_examples, seed, _SHUFFLE, epoch), kind="stable").astype(np.int64)


def flip_mask(batch_size: int, step: int, seed: int) -> np.ndarray:
    """Choose the examples of the global batch of `step` to mirror: bool [batch_size], each true with probability 1/2."""
    return _random_bits(batch_size, seed, _FLIP, step) >> np.uint64(63) == 1


def _random_bits(count: int, seed: int, purpose: int, position: int) -> np.ndarray:
    """Random uint64 [count] that depend on the arguments alone; `position` is the epoch or the step."""
    return np.random.Philox(np.random.SeedSequence(seed, spawn_key=(purpose, position))).random_raw(count)
