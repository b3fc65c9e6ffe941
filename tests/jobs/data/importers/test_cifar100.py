"""CIFAR-100's archive as a data set, and what both archives share."""

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from cifar_archives import CIFAR_IMAGES, cifar100_members, cifar_members, make_archive

from jobs.data.dataset import open_data
from jobs.data.importers.averaged import average
from jobs.data.importers.cifar import import_cifar10, import_cifar100
from jobs.data.importers.writer import Writer
from jobs.errors import UserError


@pytest.mark.parametrize("labels, ids, classes", [("fine", [0, 1, 2] * 3, ["apple", "bear", "cup"]),
                                                  ("coarse", [0, 1, 0] * 3, ["food", "beasts"])])
@pytest.mark.parametrize("split, part", [("train", slice(0, 9)), ("test", slice(9, 18))])
def test_cifar100(tmp_path, output, labels, ids, classes, split, part):
    source = make_archive(tmp_path / "cifar-100-python.tar.gz", cifar100_members(), "cifar-100-python")
    reports = []
    summary = import_cifar100(source, Writer(output, lambda *pair: reports.append(pair)), split, labels)
    data = open_data(str(output), 32, 3, len(classes))
    np.testing.assert_array_equal(data.images, CIFAR_IMAGES[part])
    assert (data.labels.tolist(), data.class_names, summary.classes) == (ids, classes, classes)
    assert data.source == f"CIFAR-100, {split}, {labels} labels" and reports == [(9, 9)]


def test_images_are_averaged_down_and_never_enlarged(tmp_path, output):
    hundred = make_archive(tmp_path / "a", cifar100_members(), "cifar-100-python")
    import_cifar100(hundred, Writer(output), "train", "fine", 16)
    data = open_data(str(output), 16, 3, 3)
    np.testing.assert_array_equal(data.images, average(CIFAR_IMAGES[:9], 16))
    assert data.source == "CIFAR-100, train, fine labels, averaged from 32x32 to 16x16"
    ten = make_archive(tmp_path / "b", cifar_members())
    import_cifar10(ten, Writer(output), "train", 20)
    np.testing.assert_array_equal(open_data(str(output), 20, 3, 10).images, average(CIFAR_IMAGES[:15], 20))
    before = output.read_bytes()
    with pytest.raises(UserError, match="b: images are 32x32, smaller than image_size 33; they would be enlarged"):
        import_cifar10(ten, Writer(output), "train", 33)
    assert output.read_bytes() == before


def test_one_archive_is_not_taken_for_the_other(tmp_path, output, assert_nothing_written):
    ten = make_archive(tmp_path / "ten", cifar_members())
    hundred = make_archive(tmp_path / "hundred", cifar100_members(), "cifar-100-python")
    for source in (ten, tmp_path / "cifar-10-batches-py"):
        with pytest.raises(UserError, match="is CIFAR-10, not CIFAR-100; use `iddpm data cifar10`"):
            import_cifar100(source, Writer(output), "train")
        with tarfile.open(ten) as tar:
            tar.extractall(tmp_path, filter="data")
    for source in (hundred, tmp_path / "cifar-100-python"):
        with pytest.raises(UserError, match="is CIFAR-100, not CIFAR-10; use `iddpm data cifar100`"):
            import_cifar10(source, Writer(output), "train")
        with tarfile.open(hundred) as tar:
            tar.extractall(tmp_path, filter="data")
    assert_nothing_written()
    assert import_cifar100(tmp_path, Writer(output), "train").count == 9  # the folder that holds the folder


def test_a_file_that_is_there_twice_is_refused(tmp_path, output, assert_nothing_written):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for name, content in [*cifar100_members().items(), *cifar100_members(data=np.zeros((9, 3072), np.uint8)).items()]:
            entry = tarfile.TarInfo(f"./cifar-100-python/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    with pytest.raises(UserError, match="a.tar: holds cifar-100-python/meta twice; which is meant?"):
        import_cifar100(archive, Writer(output), "train")
    assert_nothing_written()


@pytest.mark.parametrize("changes, message", [
    ({"fine_labels": [0, 1, 3] * 3}, "train: fine_labels must be 9 numbers in 0 .. 2"),
    ({"fine_labels": None}, "train: fine_labels must be 9 numbers"),
    ({"data": np.zeros((9, 1024), np.uint8)}, r"train: data is uint8 \[9, 1024\]; it must be uint8 \[N, 3072\]"),
])
def test_bad_cifar100_files_are_named(tmp_path, output, changes, message, assert_nothing_written):
    archive = make_archive(tmp_path / "a.tar.gz", cifar100_members(**changes), "cifar-100-python")
    with pytest.raises(UserError, match=f"a.tar.gz: {message}"):
        import_cifar100(archive, Writer(output), "train")
    assert_nothing_written()


def test_damage_anywhere_in_the_archive_is_an_error_or_the_same_data(tmp_path, output):
    archive = make_archive(tmp_path / "a.tar.gz", cifar100_members(), "cifar-100-python")
    whole = archive.read_bytes()
    import_cifar100(archive, Writer(output), "train")
    good = output.read_bytes()
    generator = np.random.default_rng(0)
    for place in generator.integers(10, len(whole), 60):  # the first ten bytes are the time and the system
        archive.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << generator.integers(8))]) + whole[place + 1:])
        with pytest.raises(UserError, match="a.tar.gz: "):
            import_cifar100(archive, Writer(output), "train")
    for place in generator.integers(0, len(whole), 20):
        archive.write_bytes(whole[:place])
        with pytest.raises(UserError, match="a.tar.gz: "):
            import_cifar100(archive, Writer(output), "train")
    assert output.read_bytes() == good and os.listdir(output.parent) == [output.name]


class Vast:
    """An array of a shape whose bytes are nowhere."""

    def __reduce__(self):
        return np.ndarray, ((1 << 30, 3072), "u1", b"x", 0, (0, 0))


def test_a_pickle_that_asks_for_a_vast_array_is_refused(tmp_path, output, assert_nothing_written):
    members = {**cifar100_members(), "train": pickle.dumps({b"data": Vast(), b"fine_labels": [0] * 9}, 3)}
    archive = make_archive(tmp_path / "a.tar.gz", members, "cifar-100-python")
    with pytest.raises(UserError, match="train: data is an array without values; it must be uint8"):
        import_cifar100(archive, Writer(output), "train")
    assert_nothing_written()
