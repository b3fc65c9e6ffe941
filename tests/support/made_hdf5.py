"""HDF5 files of other programs, for tests of how they are read."""

import h5py
import numpy as np
import pytest

from jobs.data.dataset import open_data
from jobs.data.sources import open_images
from jobs.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(1, 256, (12, 4, 4, 1), dtype=np.uint8)
LABELS = np.arange(12) % 3


def made(name, write):
    with h5py.File(name, "w") as file:
        file["padding"] = np.full(5000, 7, np.uint8)
        write(file)
        if "labels" not in list(file):
            file["labels"] = LABELS
    return name


def refused(name, message):
    with pytest.raises(UserError, match=message) as caught:
        open_data(name, 4, 1)
    assert str(caught.value).startswith(f"{name}: ") and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=message):
        open_images(name).images[0:12]


def is_right(name):
    data = open_data(name, 4, 1, 3)
    np.testing.assert_array_equal(data.images, IMAGES)
    np.testing.assert_array_equal(data.labels, LABELS)
    np.testing.assert_array_equal(open_images(name).images[0:12], IMAGES)
    return data


def virtual(file, *sources, shape=IMAGES.shape, fillvalue=0):
    """Stitch (rows, file, dataset, shape) together."""
    layout = h5py.VirtualLayout(shape, np.uint8)
    for rows, name, dataset, its_shape in sources:
        layout[rows] = h5py.VirtualSource(name, dataset, its_shape)
    file.create_virtual_dataset("images", layout, fillvalue=fillvalue)
