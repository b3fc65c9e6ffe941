"""CIFAR-10's archive as a data set."""

import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from cifar_archives import CIFAR_IMAGES, CIFAR_LABELS, CLASSES, cifar_members, make_archive, python2_pickle

from jobs.data.dataset import open_data
from jobs.data.importers import cifar
from jobs.data.importers.cifar import import_cifar10
from jobs.data.importers.writer import Writer
from jobs.errors import UserError


@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize("split, part", [("train", slice(0, 15)), ("test", slice(15, 18))])
def test_cifar10(tmp_path, output, unpacked, split, part):
    source = make_archive(tmp_path / "cifar-10-python.tar.gz", cifar_members())
    if unpacked:
        source = tmp_path / "cifar-10-batches-py"
        source.mkdir()
        for name, content in cifar_members().items():
            (source / name).write_bytes(content)
    summary = import_cifar10(source, Writer(output), split)
    data = open_data(str(output), 32, 3, 10)
    assert isinstance(data.images, np.memmap)
    np.testing.assert_array_equal(data.images, CIFAR_IMAGES[part])
    assert data.labels.tolist() == CIFAR_LABELS[part]
    assert (summary.count, summary.classes, data.class_names) == (len(data), CLASSES, CLASSES)
    assert data.source == f"CIFAR-10, {split}"


class Malice:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.mkdir, exec, getattr, np.save, np.load])
def test_a_pickle_runs_no_code(tmp_path, output, function, assert_nothing_written):
    trap = tmp_path / "trap"
    arguments = {exec: (f"import os; os.mkdir({str(trap)!r})",), getattr: (1, "real")}.get(function, (str(trap),))
    members = {**cifar_members(), "data_batch_2": pickle.dumps({b"data": Malice(function, *arguments)}, 2)}
    with pytest.raises(UserError, match="data_batch_2 is not .*it asks for .*which no image data needs"):
        import_cifar10(make_archive(tmp_path / "a.tar.gz", members), Writer(output), "train")
    assert not trap.exists()
    assert_nothing_written()


@pytest.mark.parametrize("changes, message", [
    ({"data": np.zeros((3, 3071), np.uint8)}, r"data_batch_2: data is uint8 \[3, 3071\]; it must be uint8"),
    ({"data": np.zeros((3, 3072), np.float32)}, r"data is float32 \[3, 3072\]"),
    ({"data": np.zeros(3072, np.uint8)}, r"data is uint8 \[3072\]"),
    ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, r"data is uint8 \[0, 3072\]"),
    ({"data": [1, 2]}, "data is list"),
    ({"labels": [0, 1]}, "data_batch_2: labels must be 3 numbers in 0 .. 9"),
    ({"labels": [0, 1, 10]}, "labels must be 3 numbers in 0 .. 9"),
    ({"labels": [0, 1, True]}, "labels must be 3 numbers in 0 .. 9"),
    ({"labels": [0, 1, -1]}, "labels must be 3 numbers in 0 .. 9"),
    ({"labels": [0, 1, float("nan")]}, "labels must be 3 numbers in 0 .. 9"),
    ({"labels": [0, 1, "cat"]}, "labels must be 3 numbers in 0 .. 9"),
    ({"labels": None}, "labels must be 3 numbers in 0 .. 9"),
])
def test_bad_cifar_batches_are_named(tmp_path, output, changes, message, assert_nothing_written):
    with pytest.raises(UserError, match=f"a.tar.gz: .*{message}"):
        import_cifar10(make_archive(tmp_path / "a.tar.gz", cifar_members(**changes)), Writer(output), "train")
    assert_nothing_written()


def test_incomplete_cifar_archives(tmp_path, output):
    members = cifar_members()
    incomplete = {name: content for name, content in members.items() if name not in ("data_batch_3", "data_batch_5")}
    archive = make_archive(tmp_path / "a.tar.gz", incomplete)
    with pytest.raises(UserError, match="has no cifar-10-batches-py/data_batch_3.* data_batch_3, data_batch_5"):
        import_cifar10(archive, Writer(output), "train")
    assert import_cifar10(archive, Writer(output), "test").count == 3
    elsewhere = make_archive(tmp_path / "b.tar.gz", members, folder="elsewhere")
    with pytest.raises(UserError, match="b.tar.gz: has no cifar-10-batches-py/batches.meta"):
        import_cifar10(elsewhere, Writer(output), "test")
    nameless = make_archive(tmp_path / "c.tar.gz", {**members, "batches.meta": python2_pickle([])})
    with pytest.raises(UserError, match="batches.meta has no label_names"):
        import_cifar10(nameless, Writer(output), "test")


def test_damaged_cifar_archives(tmp_path, output, assert_nothing_written):
    archive = make_archive(tmp_path / "a.tar.gz", cifar_members())
    whole = archive.read_bytes()
    checksum_wrong = whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]
    for content in (whole[:len(whole) // 2], whole[:-3], checksum_wrong, b"", b"no archive" * 100, whole[:5]):
        archive.write_bytes(content)
        with pytest.raises(UserError, match="a.tar.gz: not a whole tar archive"):
            import_cifar10(archive, Writer(output), "train")
    with pytest.raises(UserError, match="missing.tar.gz: no such file; give cifar-10-python.tar.gz or"):
        import_cifar10(tmp_path / "missing.tar.gz", Writer(output), "train")
    members = cifar_members()
    members["data_batch_4"] = members["data_batch_4"][:-2000]
    with pytest.raises(UserError, match="data_batch_4 is not a CIFAR-10 pickle, or a damaged one"):
        import_cifar10(make_archive(tmp_path / "b.tar.gz", members), Writer(output), "train")
    assert_nothing_written()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_every_way_to_pack_the_archive(tmp_path, output, mode):
    with tarfile.open(tmp_path / "a", mode) as tar:
        for name, content in cifar_members().items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    assert import_cifar10(tmp_path / "a", Writer(output), "train").count == 15


def bomb(path, name, size):
    """A packed tar of one member of `size` zeros, or the first of them."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    with gzip.open(path, "wb", 1) as file:
        file.write(entry.tobuf(tarfile.GNU_FORMAT))
        for _ in range(min(size, 700 << 20) >> 20):
            file.write(bytes(1 << 20))
    return path


@pytest.mark.parametrize("name, size, message", [
    ("cifar-10-batches-py/data_batch_1", 100 << 30, "holds a file of more than 64 MiB, so it is not CIFAR-10"),
    ("other", 700 << 20, "holds a file of more than 64 MiB"),
])
def test_archives_that_unpack_to_much_are_refused(tmp_path, output, name, size, message, assert_nothing_written):
    with pytest.raises(UserError, match=message):
        import_cifar10(bomb(tmp_path / "a.tar.gz", name, size), Writer(output), "train")
    assert_nothing_written()


def test_many_members_and_long_ends_are_refused(tmp_path, output, monkeypatch, assert_nothing_written):
    monkeypatch.setattr(cifar, "_MOST_BYTES", 8 << 20)
    archive = make_archive(tmp_path / "a.tar.gz", cifar_members())
    with gzip.open(archive) as file:
        content = file.read()
    for more in (content + bytes(9 << 20), content[:-10240] + tarfile.TarInfo("x").tobuf() * 20_000 + bytes(10240)):
        with gzip.open(archive, "wb", 1) as file:
            file.write(more)
        with pytest.raises(UserError, match="it unpacks to more than 8 MiB"):
            import_cifar10(archive, Writer(output), "train")
    extended = tarfile.TarInfo("x")
    extended.type, extended.size = tarfile.XHDTYPE, 1 << 33  # a header that tarfile reads as a whole
    with gzip.open(archive, "wb", 1) as file:
        file.write(extended.tobuf(tarfile.GNU_FORMAT) + bytes(9 << 20))
    with pytest.raises(UserError, match="not a whole tar archive"):
        import_cifar10(archive, Writer(output), "train")
    assert_nothing_written()


def test_a_large_file_in_the_unpacked_folder(tmp_path, output, assert_nothing_written):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, content in cifar_members().items():
        (folder / name).write_bytes(content)
    os.truncate(folder / "data_batch_3", 1 << 40)
    with pytest.raises(UserError, match="data_batch_3: more than 64 MiB, so it is no part of CIFAR-10"):
        import_cifar10(folder, Writer(output), "train")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: not a regular file"):
        import_cifar10(tmp_path / "pipe", Writer(output), "train")
    assert_nothing_written()
