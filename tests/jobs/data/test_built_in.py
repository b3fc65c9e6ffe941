"""Data sets that come with the code."""

import numpy as np
import pytest

from jobs.data import built_in
from jobs.data.built_in import BUILT_IN_DATA
from jobs.data.dataset import fingerprint, open_built_in, open_data
from jobs.errors import UserError


def test_digits_are_scikit_learns_in_two_parts():
    from sklearn.datasets import load_digits

    train, test = open_data("digits", 8, 1, 10), open_data("digits-test", 8, 1, 10)
    assert (len(train), len(test)) == (1500, 297)
    images = np.concatenate([train.images, test.images])
    assert images.dtype == np.uint8 and images.shape == (1797, 8, 8, 1) and images.max() == 255
    np.testing.assert_array_equal(np.rint(images[..., 0] * (16 / 255)), load_digits().images)
    labels = np.concatenate([train.labels, test.labels])
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, load_digits().target)
    assert train.class_names == list("0123456789")


@pytest.mark.parametrize("path, size, channels, message", [
    ("digits", 32, 1, "digits: images are 8x8, but image_size is 32"),
    ("digits-test", 8, 3, "digits-test: images have 1 channels, but channels is 3"),
])
def test_digits_of_another_shape_are_refused(path, size, channels, message):
    with pytest.raises(UserError, match=message):
        open_data(path, size, channels)


# data.json of a run keeps this fingerprint: with other values a run on the digits would refuse to resume.
@pytest.mark.parametrize("name, sha256", [
    ("digits", "95e4da400e7770380a75240a152bb160abc6e3b02885c2ed5e43890349afc64d"),
    ("digits-test", "d782c8b49968bc45b8d35a3c8b7dbed7906aa41a9cd4673d314c8affabe718de"),
])
def test_the_digits_never_change(name, sha256):
    assert fingerprint(open_built_in(name)) == sha256


def test_each_has_a_licence_beside_its_file():
    for data in BUILT_IN_DATA.values():
        assert "CC BY 4.0" in (built_in._FOLDER / data.file).with_suffix(".LICENSE.txt").read_text()
