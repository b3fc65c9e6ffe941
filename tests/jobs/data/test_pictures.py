"""Images as tensors, and grids of images: `ungrid` takes apart what `grid` put together."""

import numpy as np
import pytest
import torch

from jobs.data.pictures import as_images, grid, mirrored, to_x, ungrid

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6), np.uint8))


def test_images_are_mirrored_where_the_flip_says_so():
    flip = torch.tensor([False, True, True, False])
    found = mirrored(IMAGES, flip)
    assert found.dtype == torch.uint8 and torch.equal(found[[0, 3]], IMAGES[[0, 3]])
    assert torch.equal(found[[1, 2]], IMAGES[[1, 2]].flip(3))
    assert mirrored(IMAGES, None) is IMAGES


def test_images_to_x_and_back():
    np.testing.assert_array_equal(as_images(to_x(IMAGES)), IMAGES.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("size", [5, 8, 32, 64, 70])
@pytest.mark.parametrize("columns", [1, 3, 6])
def test_a_grid_comes_apart_into_its_images(size, columns):
    images = np.random.default_rng(0).integers(0, 256, (6, size, size, 3), dtype=np.uint8)
    np.testing.assert_array_equal(ungrid(grid(images, columns), size), images)


@pytest.mark.parametrize("shape", [(68, 70), (66, 65), (2, 2), (1, 66)])
def test_a_picture_of_another_size_is_no_grid(shape):
    with pytest.raises(ValueError, match="is no grid of 8x8 images"):
        ungrid(np.zeros((*shape, 1), np.uint8), 8)
