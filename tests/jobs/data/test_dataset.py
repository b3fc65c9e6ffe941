"""Data sets are opened, or refused with a message that names the fault; batches are read from them."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from jobs.data import dataset as data_module
from jobs.data.dataset import ImageData, fingerprint, load_batch, open_data
from jobs.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)
LABELS = np.arange(20) % 4


def make_file(path, images=IMAGES, labels=LABELS, userblock_size=0, **storage):
    with h5py.File(path, "w", userblock_size=userblock_size) as file:
        if images is not None:
            file.create_dataset("images", data=images, **storage)
        if labels is not None:
            file["labels"] = labels
        file.attrs["source"] = "a test"
        file.attrs["class_names"] = json.dumps(["ant", "bee", "cat", "dog"])
    return str(path)


@pytest.mark.parametrize("userblock_size", [0, 512])
def test_contiguous_images_are_mapped_read_only(tmp_path, userblock_size):
    data = open_data(make_file(tmp_path / "a.h5", userblock_size=userblock_size), 6, 3, 4)
    assert isinstance(data.images, np.memmap) and not data.images.flags.writeable
    np.testing.assert_array_equal(data.images, IMAGES)
    np.testing.assert_array_equal(data.labels, LABELS)
    assert (data.class_names, data.source, len(data)) == (["ant", "bee", "cat", "dog"], "a test", 20)


@pytest.mark.parametrize("storage", [{"chunks": (7, 6, 6, 3)}, {"compression": "gzip"},
                                     {"chunks": True, "maxshape": (None, 6, 6, 3)}])
def test_chunked_images_are_read(tmp_path, storage):
    data = open_data(make_file(tmp_path / "a.h5", **storage), 6, 3)
    assert not isinstance(data.images, np.memmap)
    np.testing.assert_array_equal(data.images, IMAGES)


def test_images_in_an_external_file_are_read(tmp_path):
    (tmp_path / "raw").write_bytes(IMAGES.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", IMAGES.shape, np.uint8, external=[(str(tmp_path / "raw"), 0, IMAGES.nbytes)])
    np.testing.assert_array_equal(open_data(str(tmp_path / "a.h5"), 6, 3).images, IMAGES)


def test_labels_of_any_integer_type_become_int64(tmp_path):
    data = open_data(make_file(tmp_path / "a.h5", labels=LABELS.astype(">u2")), 6, 3, 4)
    assert data.labels.dtype == np.int64
    np.testing.assert_array_equal(data.labels, LABELS)


def test_images_without_labels(tmp_path):
    path = make_file(tmp_path / "a.h5", labels=None)
    assert open_data(path, 6, 3).labels is None
    with pytest.raises(UserError, match="a.h5: has no /labels, which a class-conditional model needs"):
        open_data(path, 6, 3, num_classes=4)


@pytest.mark.parametrize("change, message", [
    ({"images": None}, "has no /images; it holds: labels"),
    ({"images": IMAGES.astype("f4")}, r"/images is float32 with shape \[20, 6, 6, 3\]; it must be uint8 \[N, H,"),
    ({"images": IMAGES[..., 0]}, r"/images is uint8 with shape \[20, 6, 6\]"),
    ({"images": IMAGES[:0], "labels": LABELS[:0]}, "/images is empty"),
    ({"images": IMAGES[:, :, :5]}, "images are 6x5, but image_size is 6"),
    ({"images": IMAGES[..., :1]}, "images have 1 channels, but channels is 3"),
    ({"images": h5py.Empty("u1")}, "/images is uint8 with shape"),
    ({"labels": LABELS[:19]}, "19 labels for 20 images"),
    ({"labels": LABELS.astype(float)}, "/labels is float64"),
    ({"labels": LABELS[:, None]}, r"/labels is int64 with shape \[20, 1\]; it must be int64 \[N\]"),
    ({"labels": LABELS + 1}, r"label 4 of image 3 is outside 0 .. 3 \(num_classes is 4\); 5 such labels in all"),
    ({"labels": LABELS - 1}, "label -1 of image 0 is outside 0 .. 3"),
])
def test_bad_contents_are_named(tmp_path, change, message):
    path = make_file(tmp_path / "a.h5", **change)
    with pytest.raises(UserError, match=f"^{path}: {message}"):
        open_data(path, 6, 3, num_classes=4)


def test_a_group_in_the_place_of_images(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("images")
    with pytest.raises(UserError, match="/images is a group"):
        open_data(str(tmp_path / "a.h5"), 6, 3)


@pytest.mark.parametrize("value", ["no JSON", '{"a": 1}', "[1]", 3])
def test_bad_class_names_are_named(tmp_path, value):
    path = make_file(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file.attrs["class_names"] = value
    with pytest.raises(UserError, match="attribute class_names must be a JSON list of strings"):
        open_data(path, 6, 3)


def test_files_that_are_no_data_sets(tmp_path):
    with pytest.raises(UserError, match="missing.h5: no such file; make a data set with `iddpm data"):
        open_data(str(tmp_path / "missing.h5"), 6, 3)
    with pytest.raises(UserError, match="a folder, not an HDF5 file"):
        open_data(str(tmp_path), 6, 3)
    for content in (b"", b"not HDF5" * 1000):
        (tmp_path / "a.h5").write_bytes(content)
        with pytest.raises(UserError, match="a.h5: not an HDF5 file, or a damaged one"):
            open_data(str(tmp_path / "a.h5"), 6, 3)


@pytest.mark.parametrize("storage", [{}, {"compression": "gzip"}])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, storage):
    path = make_file(tmp_path / "whole.h5", **storage)
    whole = (tmp_path / "whole.h5").read_bytes()
    open_data(path, 6, 3)
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        (tmp_path / "cut.h5").write_bytes(whole[:length])
        with pytest.raises(UserError, match="cut.h5: not an HDF5 file, or a damaged one"):
            open_data(str(tmp_path / "cut.h5"), 6, 3)


def test_damaged_compressed_images_are_refused(tmp_path):
    path = make_file(tmp_path / "a.h5", compression="gzip", chunks=IMAGES.shape)
    with h5py.File(path) as file:
        chunk = file["images"].id.get_chunk_info(0)
    with open(path, "r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    with pytest.raises(UserError, match="a.h5: /images cannot be read, the file is damaged"):
        open_data(path, 6, 3)


def test_fingerprint_is_of_the_content_alone(tmp_path, monkeypatch):
    mapped = open_data(make_file(tmp_path / "a.h5"), 6, 3)
    chunked = open_data(make_file(tmp_path / "b.h5", chunks=True), 6, 3)
    expected = fingerprint(mapped)
    monkeypatch.setattr(data_module, "_BLOCK", 3)
    assert fingerprint(mapped) == fingerprint(chunked) == expected

    def changed(images=IMAGES, labels=LABELS):
        return fingerprint(ImageData(images, labels, [], ""))

    assert changed() == expected
    one_pixel, one_label = IMAGES.copy(), LABELS.copy()
    one_pixel[19, 5, 5, 2] ^= 1
    one_label[19] += 1
    others = [changed(images=one_pixel), changed(labels=one_label), changed(labels=None), changed(images=IMAGES[:19]),
              changed(images=IMAGES.reshape(20, 3, 12, 3))]
    assert len({expected, *others}) == 6


def test_load_batch_keeps_the_order(tmp_path):
    data = open_data(make_file(tmp_path / "a.h5"), 6, 3)
    indices = np.array([7, 3, 19, 3])
    batch = load_batch(data, indices)
    assert type(batch) is np.ndarray and batch.dtype == np.uint8 and batch.flags.c_contiguous and batch.flags.writeable
    np.testing.assert_array_equal(batch, IMAGES[indices].transpose(0, 3, 1, 2))


@pytest.mark.parametrize("images", [IMAGES, IMAGES[..., :1]])
def test_load_batch_leaves_data_in_memory_alone(images):
    data = ImageData(images.copy(), None, [], "")
    load_batch(data, np.arange(20))[:] = 0
    np.testing.assert_array_equal(data.images, images)


def test_importing_is_light():
    names = ("cifar", "dataset_zip", "digits", "encoded", "folder", "imagenet_npz", "mnist", "npz")
    modules = ", ".join(f"jobs.data.importers.{name}" for name in names)
    code = f"import sys, {modules}; sys.exit(bool({{'torch', 'sklearn'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
