"""The numbers and the picture of a data set."""

import json

import h5py
import numpy as np
import pytest

from jobs.data import overview as module
from jobs.data.dataset import ImageData, fingerprint, open_data
from jobs.data.overview import ClassCount, draw, overview


def made(images, labels=None, names=()):
    return ImageData(np.asarray(images, np.uint8), None if labels is None else np.array(labels, np.int64), list(names), "")


def random_images(count, side=8, channels=3):
    return np.random.default_rng(count).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def test_numbers_of_all_images(monkeypatch):
    monkeypatch.setattr("jobs.data.dataset._BLOCK", 3)
    images, reports = random_images(8), []
    data = made(images, [2, 0, 2, 2, 0, 7, 2, 2], ["ant", "bee", "cat"])
    found = overview(data, lambda *pair: reports.append(pair))
    assert found.classes == [ClassCount(0, "ant", 2), ClassCount(1, "bee", 0), ClassCount(2, "cat", 5), ClassCount(7, "", 1)]
    np.testing.assert_allclose(found.mean, images.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.std, images.std((0, 1, 2)), rtol=1e-12)
    assert found.sha256 == fingerprint(data) and reports == [(3, 8), (6, 8), (8, 8)]


def test_an_image_of_one_value_has_no_deviation():
    found = overview(made(np.full((2, 4, 4, 1), 200)))
    assert (found.classes, found.mean, found.std) == ([], [200.0], [0.0])


def test_the_picture_has_the_first_images_of_each_class_beside_its_name():
    data = made(random_images(9, 64), [1, 0, 1, 1, 0, 0, 1, 0, 1], ["ant", "bee"])
    picture, words = draw(data, overview(data).classes, 3)
    assert words == "the first 3 images of each class" and picture.shape[0] == 2 * 66 + 2
    beside = picture.shape[1] - 3 * 66 - 2
    for row, indices in enumerate(([1, 4, 5], [0, 2, 3])):
        assert picture[row * 66 + 2:row * 66 + 66, 2:beside].min() < 100, "the name"
        for place, index in enumerate(indices):
            left = 2 + beside + place * 66
            np.testing.assert_array_equal(picture[row * 66 + 2:row * 66 + 66, left:left + 64], data.images[index])


def test_small_images_are_enlarged_and_large_ones_made_smaller():
    grey = made(random_images(5, 8, 1))
    picture, words = draw(grey, [], 2)
    assert words == "the first 4 images" and picture.shape == (134, 134, 1)
    np.testing.assert_array_equal(picture[2:66:8, 2:66:8], grey.images[0])
    large = made(np.repeat(np.repeat(random_images(1, 64), 4, 1), 4, 2))
    picture, _ = draw(large, [], 2)
    assert picture.shape == (132, 132 + 130, 3)
    np.testing.assert_array_equal(picture[2:130:2, 2:130:2], large.images[0, ::4, ::4])


def test_many_classes_are_drawn_in_columns_and_the_last_ones_left_out(monkeypatch):
    monkeypatch.setattr(module, "MOST_CLASSES", 20)
    data = made(random_images(50, 64), np.arange(50) % 25, [f"{'long ' * 20}{number}\n" for number in range(25)])
    picture, words = draw(data, overview(data).classes, 2)
    assert words == "the first 2 images of the first 20 of 25 classes"
    height, width = picture.shape[:2]
    assert 0.5 < height / width < 1.3
    rows = (height - 2) // 66
    np.testing.assert_array_equal(picture[2:66, -132:-68], data.images[rows * (-(-20 // rows) - 1)])


def test_a_class_without_images_has_an_empty_row():
    data = made(random_images(2, 64), [1, 1], ["ant", "bee"])
    picture, _ = draw(data, overview(data).classes, 2)
    assert (picture[2:66, -130:] == 255).all()


@pytest.mark.parametrize("attribute, skipped", [(3, 3), (None, None), ("three", None)])
def test_the_number_of_skipped_images_is_read_where_there_is_one(tmp_path, attribute, skipped):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["images"] = random_images(2)
        file.attrs["class_names"] = json.dumps([])
        if attribute is not None:
            file.attrs["skipped"] = attribute
    assert open_data(str(tmp_path / "data.h5"), 8, 3).skipped == skipped
