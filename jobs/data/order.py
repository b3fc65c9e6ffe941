"""Choose the examples of each training step, and which are mirrored or cropped how, from the seed and the step alone."""

from functools import lru_cache
from math import ceil

import numpy as np

# Keep the random streams of one seed apart.
_SHUFFLE, _FLIP, _CROP = 0, 1, 2

SMALLEST_CROP = 0.8  # of an image's side, as in the training of the classifiers of Dhariwal & Nichol 2021


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


def crop_windows(batch_size: int, step: int, seed: int, image_size: int) -> np.ndarray:
    """Choose a square window of each image of the global batch of `step`: float64 [batch_size, 3], as (side, left, top) in shares
    of the image's side.

    As if the image were enlarged to `size` pixels, a whole number in image_size .. image_size / SMALLEST_CROP, and a window of
    image_size pixels were cut out of it: `size` is uniform, and then the place of the window.
    """
    bits = _random_bits(3 * batch_size, seed, _CROP, step).reshape(batch_size, 3)
    uniform = (bits >> np.uint64(11)).astype(np.float64) / 2 ** 53  # [0, 1)
    size = image_size + np.floor(uniform[:, :1] * (ceil(image_size / SMALLEST_CROP) - image_size + 1))
    places = np.floor(uniform[:, 1:] * (size - image_size + 1))
    return np.concatenate([image_size / size, places / size], axis=1)


def _random_bits(count: int, seed: int, purpose: int, position: int) -> np.ndarray:
    """Random uint64 [count] that depend on the arguments alone; `position` is the epoch or the step."""
    return np.random.Philox(np.random.SeedSequence(seed, spawn_key=(purpose, position))).random_raw(count)
