"""Images and references are opened from every kind of file."""

import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image

from jobs.data.dataset import open_data
from jobs.data.sources import StoredSamples, open_images, open_reference, reference_problems, remarks_of
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
    with pytest.raises(UserError, match="0.png: not an image of a type that Pillow reads"):
        open_images(str(files / "folder"))


def folder_of(path, images):
    path.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(path / f"{number}.png")
    return open_images(str(path))


def test_one_grey_picture_does_not_make_all_grey(tmp_path):
    for place in (0, 3, 6):
        pictures = [image[..., 0] if number == place else image for number, image in enumerate(IMAGES)]
        found = folder_of(tmp_path / str(place), pictures)
        assert found.images.shape == (7, 8, 8, 3)
        grey = np.repeat(IMAGES[place, ..., :1], 3, 2)
        np.testing.assert_array_equal(found.images[0:7], [grey if number == place else IMAGES[number] for number in range(7)])
        assert remarks_of(found) == [f"{tmp_path / str(place)}: grey made RGB: 1"]


def test_grey_with_transparency_is_grey(tmp_path):
    found = folder_of(tmp_path / "a", [np.dstack([IMAGES[0, ..., 0], np.full((8, 8), 255, np.uint8)])])
    np.testing.assert_array_equal(found.images[0:1], IMAGES[:1, ..., :1])


def test_12_bits_in_16_are_as_bright_as_8_whatever_is_sliced(tmp_path):
    ramp = np.tile(np.linspace(0, 4095, 8).astype(np.uint16), (8, 1))
    found = folder_of(tmp_path / "a", [ramp // 4, ramp])
    np.testing.assert_array_equal(found.images[0:1][0, ..., 0], ramp // 4 >> 4)
    assert found.images[1:2].max() == 255


def test_a_folder_says_what_it_left_out(tmp_path):
    found = folder_of(tmp_path / "a", IMAGES[:1])
    assert remarks_of(found) == [] and remarks_of(open_images("digits")) == []
    (tmp_path / "a" / "notes.txt").write_text("")
    assert remarks_of(open_images(str(tmp_path / "a"))) == [f"{tmp_path / 'a'}: left out 1 file that is no picture: 1 .txt"]


@pytest.mark.slow
def test_enormous_and_damaged_pictures_and_odd_names(tmp_path):
    def refused(path, message):
        with pytest.raises(UserError, match=message) as caught:
            open_images(str(path)).images[0:9]
        assert str(caught.value).isprintable()
    (tmp_path / "bomb").mkdir()
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb" / "big.png")
    refused(tmp_path / "bomb", "bomb/big.png: not decodable .Image size .900000000 pixels. exceeds limit")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "bomb" / "big.png")
    refused(tmp_path / "bomb", "bomb/big.png: 10000x10000 pixels: suspected decompression bomb")
    (tmp_path / "esc").mkdir()
    Image.fromarray(IMAGES[0]).save(tmp_path / "esc" / "a.png")
    (tmp_path / "esc" / "b\x1b[31m.png").write_bytes((tmp_path / "esc" / "a.png").read_bytes()[:80])
    refused(tmp_path / "esc", r"b\\x1b\[31m.png: ")


@pytest.mark.parametrize("shape, message", [
    ((60, 3, 8, 8), r"\[60, 3, 8, 8\] looks like \[N, C, H, W\]"), ((60, 1, 8, 16), "looks like"),
    ((60, 8, 16, 3), "images are 8x16; they must be square")])
def test_axes_in_another_order_and_images_that_are_not_square(tmp_path, shape, message):
    np.savez(tmp_path / "a.npz", np.zeros(shape, np.uint8))
    with pytest.raises(UserError, match=f"^{tmp_path / 'a.npz'}: .*{message}"):
        open_images(str(tmp_path / "a.npz"))
    with pytest.raises(UserError, match=f"^{tmp_path / 'a.npz'}: images are"):
        open_reference(str(tmp_path / "a.npz"), 8, 3)


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


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (4, 0, 0, 3), (4, 8, 8, 0), (4, 0, 8, 3)])
def test_images_without_pixels(tmp_path, shape):
    np.savez(tmp_path / "a.npz", np.zeros(shape, np.uint8))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = np.zeros(shape, np.uint8)
    for name in ("a.npz", "a.h5"):
        with pytest.raises(UserError, match=f"{name}: (holds no images|/images is empty)"):
            open_images(str(tmp_path / name))
    with pytest.raises(UserError, match="a.h5: /images is empty"):
        open_data(str(tmp_path / "a.h5"), 0, 3)


@pytest.mark.parametrize("label", [-1, 10 ** 12, 2 ** 64 - 1])
def test_labels_that_no_classifier_is_trained_on(tmp_path, label):
    np.savez(tmp_path / "a.npz", IMAGES, np.array([0] * 6 + [label], np.int64 if label < 2 ** 63 else np.uint64))
    problems = reference_problems(open_reference(str(tmp_path / "a.npz"), 8, 3), ("fid",), "classifier")
    assert len(problems) == 1 and f"{tmp_path / 'a.npz'}: labels go from " in problems[0]
