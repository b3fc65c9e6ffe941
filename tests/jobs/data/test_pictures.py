"""Images as tensors."""

import numpy as np
import torch

from jobs.data.pictures import as_images, mirrored, to_x

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6), np.uint8))


def test_images_are_mirrored_where_the_flip_says_so():
    flip = torch.tensor([False, True, True, False])
    found = mirrored(IMAGES, flip)
    assert found.dtype == torch.uint8 and torch.equal(found[[0, 3]], IMAGES[[0, 3]])
    assert torch.equal(found[[1, 2]], IMAGES[[1, 2]].flip(3))
    assert mirrored(IMAGES, None) is IMAGES


def test_images_to_x_and_back():
    np.testing.assert_array_equal(as_images(to_x(IMAGES)), IMAGES.permute(0, 2, 3, 1).numpy())
