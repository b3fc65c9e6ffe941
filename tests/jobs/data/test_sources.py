"""Images and references are opened from every kind of file."""

import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image

from jobs.data.sources import StoredSamples, open_images, open_reference, reference_problems
from jobs.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 8, 8, 3), np.uint8)
MU, SIGMA = RNG.random(5), np.eye(5)
METRICS = ("fid", "sfid", "inception_score", "precision_recall", "kid")


@pytest.fixture
def files(tmp_path):
    """One file of each kind, all with the same images."""
    np.savez(tmp_path / "plain.npz", IMAGES, np.arange(7))
    np.savez_compressed(tmp_path / "packed.npz", arr_0=IMAGES)
    np.savez(tmp_path / "fortran.npz", arr_0=np.asfortranarray(IMAGES))
    np.savez(tmp_path / "VIRTUAL_x.npz", mu=MU, sigma=SIGMA, mu_s=MU[:2], sigma_s=np.eye(2), arr_0=IMAGES)
    np.savez(tmp_path / "edm.npz", mu=MU, sigma=SIGMA)
    for name in ("data.h5", "samples.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file["images"], file["labels"] = IMAGES, np.arange(7)
            if name == "samples.h5":
                file["sample_index"] = np.arange(7)
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / "folder" / ("sub" if number > 4 else "") / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("name", ["plain.npz", "packed.npz", "fortran.npz", "VIRTUAL_x.npz", "data.h5", "samples.h5", "folder"])
def test_the_same_images_from_every_kind_of_file(files, name):
    found = open_images(str(files / name), 8, 3)
    assert found.images.shape == (7, 8, 8, 3) and len(found) == 7
    np.testing.assert_array_equal(np.concatenate([found.images[0:3], found.images[3:7]]), IMAGES)
    labels = None if found.labels is None else found.labels.tolist()
    assert labels == (list(range(7)) if name in ("plain.npz", "data.h5", "samples.h5") else None)


def test_an_uncompressed_npz_is_not_read_as_a_whole(files):
    assert isinstance(open_images(str(files / "plain.npz")).images, np.memmap)
    assert isinstance(open_images(str(files / "samples.h5")).images, StoredSamples)


def test_digits_need_no_file():
    assert open_images("digits-test").images.shape == (297, 8, 8, 1)


def test_grey_pictures_have_one_channel(tmp_path):
    for number in range(2):
        Image.fromarray(IMAGES[number, :, :, 0]).save(tmp_path / f"{number}.png")
    found = open_images(str(tmp_path))
    np.testing.assert_array_equal(found.images[0:2], IMAGES[:2, :, :, :1])


def test_what_cannot_be_used_is_named(files):
    def refused(name, message, *shape):
        with pytest.raises(UserError, match=message) as caught:
            images = open_images(str(files / name), *shape).images
            images[0:9]
        assert str(files / name) in str(caught.value) and "\n" not in str(caught.value)
    refused("none.npz", "no such file")
    refused("edm.npz", "has no images")
    refused("data.h5", "images are 8x8, but image_size is 16", 16, 3)
    refused("folder", "images have 3 channels, but channels is 1", 8, 1)
    (files / "words.npz").write_text("no")
    refused("words.npz", "neither HDF5 nor .npz, or damaged")
    with zipfile.ZipFile(files / "odd.npz", "w") as archive:
        archive.writestr("arr_0.npy", b"junk")
    refused("odd.npz", "not an .npz file, or a damaged one")
    np.savez(files / "floats.npz", arr_0=IMAGES / 2)
    refused("floats.npz", r"arr_0 is float64 \[7, 8, 8, 3\]; it must be uint8")
    np.savez(files / "empty.npz", arr_0=IMAGES[:0])
    refused("empty.npz", "holds no images")
    with h5py.File(files / "other.h5", "w") as file:
        file["x"] = 1
    refused("other.h5", "has no /images")


def test_a_folder_of_images_of_several_sizes_names_the_odd_one(files):
    Image.fromarray(IMAGES[0, :, :6]).save(files / "folder" / "9.png")
    images = open_images(str(files / "folder")).images
    with pytest.raises(UserError, match=f"{files / 'folder' / '9.png'}: 6x8, but 0.png is 8x8"):
        images[0:9]
    Image.fromarray(IMAGES[0, :, :6]).save(files / "folder" / "0.png")
    with pytest.raises(UserError, match="0.png: 6x8; samples must be square"):
        open_images(str(files / "folder"))
    (files / "folder" / "0.png").write_bytes(b"no")
    with pytest.raises(UserError, match="0.png: not an image"):
        open_images(str(files / "folder"))


def test_references_of_the_field_and_what_they_can_give(files):
    virtual = open_reference(str(files / "VIRTUAL_x.npz"), 8, 3)
    assert virtual.statistics.keys() == {"pool", "spatial"} and len(virtual.images) == 7
    np.testing.assert_array_equal(virtual.statistics["pool"][0], MU)
    np.testing.assert_array_equal(virtual.statistics["spatial"][1], np.eye(2))
    assert reference_problems(virtual, METRICS, "inception.pt") == []
    assert reference_problems(open_reference(str(files / "data.h5"), 8, 3), METRICS, "classifier") == []

    edm = open_reference(str(files / "edm.npz"), 8, 3)
    assert edm.images is None and edm.statistics.keys() == {"pool"}
    assert reference_problems(edm, ("fid", "inception_score"), "inception.pt") == []
    problems = reference_problems(edm, ("sfid", "precision_recall", "kid"), "inception.pt")
    assert len(problems) == 3 and all(text.startswith(f"{files / 'edm.npz'}: ") for text in problems)
    for text, words in zip(problems, ("mu_s and sigma_s, which sfid needs", "which precision_recall needs", "which kid needs"),
                           strict=True):
        assert words in text and "it holds mu, sigma" in text
    assert "features is pixels" in reference_problems(edm, ("fid",), "pixels")[0]
    assert "has no labels" in reference_problems(virtual, ("fid",), "classifier")[0]


def test_statistics_of_odd_shapes_are_refused(files):
    np.savez(files / "bad.npz", mu=MU, sigma=np.eye(4))
    with pytest.raises(UserError, match=r"bad.npz: mu and sigma are \[5\] and \[4, 4\]; they must be \[D\] and \[D, D\]"):
        open_reference(str(files / "bad.npz"), 8, 3)
    np.savez(files / "neither.npz", x=MU)
    with pytest.raises(UserError, match="neither images .arr_0. nor statistics .mu, sigma.; it holds x"):
        open_reference(str(files / "neither.npz"), 8, 3)
    with pytest.raises(UserError, match="images are 8x8, but image_size is 16"):
        open_reference(str(files / "VIRTUAL_x.npz"), 16, 3)
