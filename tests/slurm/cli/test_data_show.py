"""What `iddpm data show` prints and draws."""

import json

import h5py
import numpy as np
import pytest
from command_line import iddpm_here
from PIL import Image


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with h5py.File("data.h5", "w") as file:
        file["images"] = np.full((12, 16, 16, 3), (10, 20, 30), np.uint8)
        file["labels"] = np.arange(12) % 11
        file.attrs.update(source="a folder", skipped=2, class_names=json.dumps([f"kind {number}" for number in range(11)]))
    return tmp_path


def test_the_summary_and_the_picture_beside_the_file(data):
    lines = iddpm_here("data", "show", "data.h5").splitlines()
    assert lines[:4] == ["data.h5: 12 images, 16x16, RGB, 9 KiB of pixels", "source    a folder",
                         "skipped   2 when the file was made", "classes   11, with their images"]
    assert " ".join(" ".join(lines[4:-4]).split()) == " ".join(
        f"{number} kind {number} {2 if number == 0 else 1}" for number in (0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9))
    assert lines[-4:-2] == ["mean      10.0, 20.0, 30.0 of 0 .. 255 in red, green, blue", "std       0.0, 0.0, 0.0"]
    assert len(lines[-2].split()[1]) == 64
    assert lines[-1] == "picture   data.h5.png, the first 10 images of each class"
    with Image.open("data.h5.png") as picture:
        assert picture.mode == "RGB" and picture.getpixel((picture.width - 100, 10)) == (10, 20, 30)


def test_what_is_not_known_is_left_out(data):
    lines = iddpm_here("data", "show", "digits", "--each", "2", "--out", "other.png").splitlines()
    assert lines[0] == "digits: 1,500 images, 8x8, grey, 93.8 KiB of pixels"
    assert not any(line.startswith("skipped") for line in lines)
    assert lines[-1] == "picture   other.png, the first 2 images of each class"


@pytest.mark.parametrize("arguments, message", [
    (("data.h5", "--out", "picture.jpg"), "--out picture.jpg: must end in .png"),
    (("data.h5", "--out", "text.png"), "text.png: exists and is not a PNG file; choose another one with --out"),
    (("nowhere.h5",), "nowhere.h5: no such file"),
    (("text.png",), "text.png: neither HDF5 nor .npz, or damaged")])
def test_what_cannot_be_read_or_written_is_one_sentence(data, arguments, message):
    (data / "text.png").write_text("notes")
    assert message in iddpm_here("data", "show", *arguments, status=2)
    assert sorted(file.name for file in data.iterdir()) == ["data.h5", "text.png"]
