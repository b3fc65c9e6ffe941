"""Which examples each step sees, and which of them are mirrored."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data import order
from jobs.data.order import batch_indices, crop_windows, flip_mask


def stream(num_examples, batch_size, steps, seed):
    return np.concatenate([batch_indices(num_examples, batch_size, step, seed) for step in range(steps)])


@settings(max_examples=60, deadline=None)
@given(num_examples=st.integers(1, 50), batch_size=st.integers(1, 120), seed=st.integers(0, 2**80))
def test_every_epoch_is_a_permutation(num_examples, batch_size, seed):
    seen = stream(num_examples, batch_size, 3 * num_examples // batch_size + 2, seed)
    assert seen.dtype == np.int64
    epochs = seen[:len(seen) // num_examples * num_examples].reshape(-1, num_examples)
    assert len(epochs) >= 3
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(num_examples), (len(epochs), 1)))


@settings(max_examples=60, deadline=None)
@given(num_examples=st.integers(1, 50), ranks=st.integers(1, 8), per_rank=st.integers(1, 9), seed=st.integers(0, 9))
def test_the_order_of_examples_depends_on_no_split(num_examples, ranks, per_rank, seed):
    # Each rank cuts its part out of the global batch, in a process of its own.
    steps = 4
    parts = np.empty((steps, ranks, per_rank), np.int64)
    for rank in range(ranks):
        order._permutation.cache_clear()
        for step in range(steps):
            batch = batch_indices(num_examples, ranks * per_rank, step, seed)
            parts[step, rank] = batch[rank * per_rank:(rank + 1) * per_rank]
    np.testing.assert_array_equal(parts.ravel(), stream(num_examples, 1, steps * ranks * per_rank, seed))


def test_a_batch_straddles_epochs():
    seen = stream(10, 4, 5, seed=1)  # 2 epochs; the third batch has the last 2 of the first and 2 of the second
    np.testing.assert_array_equal(batch_indices(10, 4, 2, seed=1), seen[8:12])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))


def test_a_batch_does_not_depend_on_what_was_asked_before():
    expected = [batch_indices(100, 30, step, seed=5) for step in range(20)]
    for step in (19, 0, 7, 7, 3):
        batch = batch_indices(100, 30, step, seed=5)
        np.testing.assert_array_equal(batch, expected[step])
        batch[:] = -1  # a caller's change must not reach the cache
    order._permutation.cache_clear()
    np.testing.assert_array_equal(batch_indices(100, 30, 7, seed=5), expected[7])


def test_epochs_and_seeds_are_shuffled_differently():
    orders = {tuple(batch_indices(30, 30, step, seed)) for step in range(5) for seed in (0, 1, 2**32, 2**64)}
    assert len(orders) == 20 and tuple(range(30)) not in orders


def test_every_example_comes_first_equally_often():
    first = np.array([batch_indices(8, 8, epoch, seed=0)[0] for epoch in range(4000)])
    counts = np.bincount(first, minlength=8)
    assert abs(counts - 500).max() < 5 * np.sqrt(500)


def test_a_step_does_not_shuffle_again():
    order._permutation.cache_clear()
    for step in range(25):
        batch_indices(1000, 100, step, seed=0)
    assert order._permutation.cache_info().misses == 3


def test_order_and_flips_are_those_of_earlier_releases():
    # A run that goes on under newer packages must see the same examples: these values may never change.
    assert batch_indices(10, 12, 3, seed=7).tolist() == [4, 3, 8, 0, 3, 1, 5, 4, 7, 6, 8, 0]
    assert np.flatnonzero(flip_mask(16, 3, seed=7)).tolist() == [0, 1, 4, 6, 7, 10, 11, 12, 13, 15]


def test_flip_mask_is_fair_and_differs_between_steps_and_seeds():
    mask = flip_mask(20_000, 0, seed=0)
    assert mask.dtype == bool and mask.shape == (20_000,)
    assert abs(mask.mean() - 0.5) < 0.02
    np.testing.assert_array_equal(mask, flip_mask(20_000, 0, seed=0))
    for other in (flip_mask(20_000, 1, seed=0), flip_mask(20_000, 0, seed=1)):
        assert abs((mask == other).mean() - 0.5) < 0.02


def test_flips_do_not_follow_the_order_of_examples():
    order = np.concatenate([batch_indices(1000, 1000, step, seed=0) for step in range(20)])
    mask = np.concatenate([flip_mask(1000, step, seed=0) for step in range(20)])
    assert abs(np.corrcoef(order, mask)[0, 1]) < 0.04


def test_windows_are_what_cuts_out_of_enlarged_images_give():
    windows = np.concatenate([crop_windows(500, step, seed=3, image_size=8) for step in range(20)])
    side, left, top = windows.T
    size = 8 / side
    assert windows.shape == (10_000, 3) and np.allclose(size, size.round()) and {*size.round()} == {8, 9, 10}
    for place in (left * size, top * size):  # whole pixels of the enlarged image, within it
        assert np.allclose(place, place.round()) and (place >= 0).all() and (place <= size - 8 + 1e-9).all()
    assert np.allclose([np.mean(size.round() == each) for each in (8, 9, 10)], 1 / 3, atol=0.02)
    largest = size.round() == 10
    assert np.allclose([np.mean((left * size)[largest].round() == each) for each in (0, 1, 2)], 1 / 3, atol=0.03)
    assert abs(np.corrcoef(left[largest], top[largest])[0, 1]) < 0.05


def test_windows_depend_on_step_and_seed_alone():
    ours = crop_windows(12, 5, seed=1, image_size=64)
    assert np.array_equal(ours, crop_windows(12, 5, seed=1, image_size=64))
    assert np.array_equal(ours[:4], crop_windows(4, 5, seed=1, image_size=64))
    for other in (crop_windows(12, 6, seed=1, image_size=64), crop_windows(12, 5, seed=2, image_size=64)):
        assert not np.array_equal(ours, other)
