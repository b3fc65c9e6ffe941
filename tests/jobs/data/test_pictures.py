"""Images as tensors, and grids of images: `ungrid` takes apart what `grid` put together."""

import numpy as np
import pytest
import torch

from jobs.data.pictures import as_images, cropped, grid, mirrored, to_x, ungrid

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


def test_a_window_is_enlarged_to_the_whole_picture():
    ramp = torch.linspace(-1, 1, 40)
    x = torch.stack([ramp.expand(40, 40), ramp.expand(40, 40).T])[None].repeat(3, 1, 1, 1)  # the place of a pixel: x, then y
    windows = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.2, 0.0], [0.8, 0.05, 0.15]], dtype=torch.float64)
    found = cropped(x, windows)
    torch.testing.assert_close(found[0], x[0], rtol=0, atol=1e-5)  # the whole picture stays
    for picture, (side, left, top) in zip(found, windows, strict=True):
        for axis, first in ((0, left), (1, top)):
            # Output pixel i has its middle at (i + 0.5) / 40 of the window.
            middle = (first + side * (torch.arange(40) + 0.5) / 40) * 40 - 0.5
            expected = -1 + 2 * middle / 39
            across = picture[axis][20] if axis == 0 else picture[axis][:, 20]
            assert torch.allclose(across[3:-3].double(), expected[3:-3].double(), atol=0.01)  # a fifth of a pixel


def test_a_cropped_picture_stays_in_range():
    noise = torch.randint(0, 2, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0)).float() * 2 - 1
    found = cropped(noise, torch.tensor([[0.8, 0.1, 0.1]]).repeat(4, 1))
    assert found.shape == noise.shape and found.min() == -1 and found.max() == 1  # cubic interpolation would overshoot
