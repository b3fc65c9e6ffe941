"""Images averaged down to a smaller size."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_images import noise
from PIL import Image

from jobs.data.importers import averaged as module
from jobs.data.importers.averaged import average, averaged
from jobs.errors import UserError


def by_hand(image, image_size):
    """The mean over each new pixel's area, in fractions."""
    side = len(image)
    scale = Fraction(side, image_size)
    found = np.empty((image_size, image_size, image.shape[2]), np.uint8)
    for place in np.ndindex(found.shape):
        total = Fraction(0)
        for row in range(side):
            for column in range(side):
                height, width = (max(0, min(old + 1, (new + 1) * scale) - max(old, new * scale))
                                 for old, new in ((row, place[0]), (column, place[1])))
                total += height * width * int(image[row, column, place[2]])
        found[place] = int(total / scale ** 2 + Fraction(1, 2))
    return found


@settings(deadline=None, max_examples=30)
@given(st.data(), st.integers(1, 9), st.sampled_from([1, 3]))
def test_each_pixel_is_the_mean_of_its_area(data, side, channels):
    image_size = data.draw(st.integers(1, side))
    image = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, (side, side, channels), dtype=np.uint8)
    np.testing.assert_array_equal(average(image[None], image_size)[0], by_hand(image, image_size))


def test_halving_is_what_pillow_does():
    images = noise(5, 32, 32, 3)
    for image, small in zip(images, average(images, 16), strict=True):
        np.testing.assert_array_equal(small, np.asarray(Image.fromarray(image).reduce(2)))


def test_extremes_stay():
    for value in (0, 255):
        assert (average(np.full((1, 28, 28, 1), value, np.uint8), 11) == value).all()


def test_blocks_are_averaged_a_few_images_at_a_time(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 2 * 8 * 8)
    images = noise(7, 8, 8, 1)
    result = averaged([images[:5], images[5:]], images.shape, 4, "a.npz")
    blocks = list(result.blocks)
    assert [len(block) for block in blocks] == [2, 2, 1, 2] and result.shape == (7, 4, 4, 1)
    np.testing.assert_array_equal(np.concatenate(blocks), average(images, 4))
    assert result.words == ", averaged from 8x8 to 4x4"


def test_nothing_is_enlarged_and_nothing_done_without_need():
    images = noise(7, 8, 8, 1)
    with pytest.raises(UserError, match="a.npz: images are 8x8, smaller than image_size 9; they would be enlarged"):
        averaged([images], images.shape, 9, "a.npz")
    for image_size in (None, 8):
        result = averaged([images], images.shape, image_size, "a.npz")
        assert result.blocks[0] is images and result.shape == images.shape and not result.words
