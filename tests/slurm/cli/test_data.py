"""`iddpm data`, as a user types it: each command for arrays and zips, and what it says of a wrong source."""

import gzip
import io
import json
import struct
import zipfile

import numpy as np
import pytest
from cifar_archives import cifar100_members, cifar_members, make_archive
from command_line import iddpm_here
from made_images import noise
from PIL import Image

from jobs.data.dataset import open_data


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A folder with a small source of each kind, which is the current one."""
    monkeypatch.chdir(tmp_path)
    make_archive(tmp_path / "cifar10.tar.gz", cifar_members())
    make_archive(tmp_path / "cifar100.tar.gz", cifar100_members(), "cifar-100-python")
    images = noise(9, 8, 8, 3)
    np.savez("images.npz", images, np.arange(9))
    np.savez("val_data.npz", data=images.transpose(0, 3, 1, 2).reshape(9, -1), labels=np.arange(1, 10))
    for what, array in (("images-idx3", images[..., 0]), ("labels-idx1", np.arange(9, dtype=np.uint8))):
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (tmp_path / f"train-{what}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    with zipfile.ZipFile("edm.zip", "w") as archive:
        for number, image in enumerate(images):
            content = io.BytesIO()
            Image.fromarray(image).save(content, "png")
            archive.writestr(f"{number}.png", content.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": [[f"{number}.png", number % 3] for number in range(9)]}))
    (tmp_path / "names.txt").write_text("\n".join(f"class {number}" for number in range(9)))
    return tmp_path


@pytest.mark.parametrize("arguments, printed, shape", [
    (["cifar10", "cifar10.tar.gz", "--image-size", "16"], "15 images, 10 classes", (15, 16, 16, 3)),
    (["cifar100", "cifar100.tar.gz", "--labels", "coarse", "--image-size", "16"], "9 images, 2 classes", (9, 16, 16, 3)),
    (["cifar100", "cifar100.tar.gz", "--split", "test"], "9 images, 3 classes", (9, 32, 32, 3)),
    (["npz", "images.npz", "--image-size", "4"], "9 images, labels 0 .. 8 without names", (9, 4, 4, 3)),
    (["imagenet-npz", "val_data.npz", "--class-names", "names.txt"], "9 images, 9 classes", (9, 8, 8, 3)),
    (["imagenet-npz", ".", "--split", "val", "--image-size", "2"], "9 images, labels 0 .. 8 without names", (9, 2, 2, 3)),
    (["mnist", ".", "--image-size", "5", "--class-names", "names.txt"], "9 images, 9 classes", (9, 5, 5, 1)),
    (["mnist", "train-images-idx3-ubyte.gz", "--labels", "train-labels-idx1-ubyte.gz"], "9 images, labels 0 .. 8", (9, 8, 8, 1)),
    (["zip", "edm.zip", "--image-size", "4"], "9 images, labels 0 .. 2 without names", (9, 4, 4, 3)),
])
def test_each_command_writes_a_data_set(sources, arguments, printed, shape):
    command, source, *options = arguments
    assert iddpm_here("data", command, source, "out/a.h5", *options).startswith(f"out/a.h5: {printed}")
    assert open_data("out/a.h5", shape[1], shape[3]).images.shape == shape


@pytest.mark.parametrize("arguments, message", [
    (["cifar10", "cifar100.tar.gz"], "cifar100.tar.gz: is CIFAR-100, not CIFAR-10; use `iddpm data cifar100`"),
    (["cifar100", "images.npz"], "images.npz: not a whole tar archive"),
    (["npz", "val_data.npz"], "val_data.npz: has neither arr_0 nor images; it holds: data.npy, labels.npy; `iddpm data imagenet"),
    (["imagenet-npz", "images.npz"], "images.npz: has no data and no labels; it holds: arr_0.npy, arr_1.npy; `iddpm data npz`"),
    (["imagenet-npz", "."], ".: has no train*.npz; it holds: cifar10.tar.gz"),
    (["mnist", "edm.zip"], "edm.zip: nothing tells where its labels are"),
    (["mnist", ".", "--split", "test"], ".: has no test images; usual names are train-images-idx3-ubyte"),
    (["mnist", ".", "--image-size", "9"], "train-images-idx3-ubyte.gz: images are 8x8, smaller than image_size 9"),
    (["zip", "images.npz"], "images.npz: no pictures in it; 2 files that are no pictures: 2 .npy; `iddpm data npz` imports"),
    (["zip", "edm.zip", "--class-names", "gone"], "gone: no such file; class names need one name a line"),
    (["zip", "cifar10.tar.gz"], "cifar10.tar.gz: not a zip file, or a damaged one"),
])
def test_a_wrong_source_is_one_sentence(sources, arguments, message):
    command, source, *options = arguments
    text = iddpm_here("data", command, source, "out/a.h5", *options, status=2)
    assert text.startswith(f"iddpm: error: {message}") and text.count("\n") == 1
    assert not (sources / "out" / "a.h5").exists()
