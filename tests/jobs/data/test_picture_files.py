"""Grids of images, files of pictures, and grey levels as numbers of the network."""

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.data.pictures import grid, to_uint8, to_x, write_png


def test_grid_lays_out_row_by_row_without_enlarging_large_images():
    images = np.stack([np.full((64, 64, 3), value, np.uint8) for value in range(5)])
    picture = grid(images, columns=3, gap=1)
    assert picture.shape == (2 * 65 + 1, 3 * 65 + 1, 3)
    for index in range(5):
        top, left = 1 + index // 3 * 65, 1 + index % 3 * 65
        assert (picture[top:top + 64, left:left + 64] == index).all()
    assert (picture[0] == 255).all() and (picture[:, 65] == 255).all() and (picture[66:130, 131:195] == 255).all()


@pytest.mark.parametrize("channels, mode", [(1, "L"), (2, "L"), (3, "RGB"), (4, "L")])
def test_pictures_of_any_number_of_channels(tmp_path, channels, mode):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    write_png(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as picture:
        assert (picture.mode, picture.size) == (mode, (7, 5))
        np.testing.assert_array_equal(np.array(picture), image if channels == 3 else image[:, :, 0])


def test_every_grey_level_survives_the_way_to_x_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    x = torch.tensor([-1 + 2 * k / 255 for k in range(256)])
    torch.testing.assert_close(to_x(levels), x, rtol=0, atol=1e-6)
    assert torch.equal(to_uint8(to_x(levels)), levels) and torch.equal(to_uint8(x), levels)
    # Rounding, not truncation: anything nearer to a level than to its neighbours is that level.
    assert torch.equal(to_uint8(x - 0.9 / 255), levels) and torch.equal(to_uint8(x + 0.9 / 255), levels)
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]
