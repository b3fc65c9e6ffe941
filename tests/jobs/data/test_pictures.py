"""Grids of images: `ungrid` takes apart what `grid` put together."""

import numpy as np
import pytest

from jobs.data.pictures import grid, ungrid


@pytest.mark.parametrize("size", [5, 8, 32, 64, 70])
@pytest.mark.parametrize("columns", [1, 3, 6])
def test_a_grid_comes_apart_into_its_images(size, columns):
    images = np.random.default_rng(0).integers(0, 256, (6, size, size, 3), dtype=np.uint8)
    np.testing.assert_array_equal(ungrid(grid(images, columns), size), images)


@pytest.mark.parametrize("shape", [(68, 70), (66, 65), (2, 2), (1, 66)])
def test_a_picture_of_another_size_is_no_grid(shape):
    with pytest.raises(ValueError, match="is no grid of 8x8 images"):
        ungrid(np.zeros((*shape, 1), np.uint8), 8)
