"""idx files as data sets: MNIST, Fashion-MNIST, EMNIST."""

import gzip
import os
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_images import noise

from jobs.data.dataset import open_data
from jobs.data.importers import writer
from jobs.data.importers.averaged import average
from jobs.data.importers.mnist import import_mnist
from jobs.data.importers.writer import Writer
from jobs.errors import UserError

IMAGES, LABELS = noise(7, 6, 6), np.array([3, 0, 9, 1, 1, 2, 5], np.uint8)


def idx(array, kind=8):
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def put(folder, before="", split="train", images=IMAGES, labels=LABELS, packed=False, dot="-"):
    """Write a pair of files; returns that of the images."""
    folder.mkdir(exist_ok=True)
    for what, array in (("labels-idx1", labels), ("images-idx3", images)):
        path = folder / f"{before}{split}-{what.replace('-', dot)}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return path


def import_them(source, output, split="train", **options):
    summary = import_mnist(source, Writer(output), split, **options)
    return summary, open_data(str(output), options.get("image_size") or 6, 1)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dot", "-.")
def test_a_folder_of_the_usual_names(tmp_path, output, monkeypatch, packed, dot):
    monkeypatch.setattr(writer, "_BLOCK", 3)
    put(tmp_path / "mnist", packed=packed, dot=dot)
    test = put(tmp_path / "mnist", split="t10k", images=IMAGES[:2], labels=LABELS[:2], packed=packed, dot=dot)
    summary, data = import_them(tmp_path / "mnist", output)
    np.testing.assert_array_equal(data.images[..., 0], IMAGES)
    assert data.labels.tolist() == LABELS.tolist() and (summary.count, summary.largest, summary.remarks) == (7, 9, [])
    for source in (tmp_path / "mnist", test):
        _, data = import_them(source, output, "test")
        np.testing.assert_array_equal(data.images[..., 0], IMAGES[:2])
        assert data.source == f"idx file {test}"


def test_files_of_other_names_and_class_names(tmp_path, output):
    images, labels = put(tmp_path), tmp_path / "train-labels-idx1-ubyte"
    os.rename(images, tmp_path / "a")
    os.rename(labels, tmp_path / "b")
    with pytest.raises(UserError, match="a: nothing tells where its labels are; name their file with --labels"):
        import_them(tmp_path / "a", output)
    (tmp_path / "names.txt").write_text("\n".join(f"the  {number}" for number in range(10)))
    summary, data = import_them(tmp_path / "a", output, labels=tmp_path / "b", class_names=tmp_path / "names.txt")
    assert data.class_names == summary.classes == [f"the {number}" for number in range(10)]
    (tmp_path / "names.txt").write_text("a\nb")
    with pytest.raises(UserError, match="names.txt: names 2 of the classes, but there is a class number 10"):
        import_them(tmp_path / "a", output, labels=tmp_path / "b", class_names=tmp_path / "names.txt")


def test_a_file_that_is_not_packed_goes_before_its_packed_twin(tmp_path, output):
    put(tmp_path / "raw", packed=True, images=IMAGES[::-1])
    put(tmp_path / "raw")
    for folder in (tmp_path, tmp_path / "raw"):
        np.testing.assert_array_equal(import_them(folder, output)[1].images[..., 0], IMAGES)


def test_images_pass_through_memory_in_blocks(tmp_path, output, monkeypatch):
    monkeypatch.setattr(writer, "_BLOCK", 100)
    source = put(tmp_path, images=np.zeros((40_000, 10, 10), np.uint8), labels=np.zeros(40_000, np.uint8))
    tracemalloc.start()
    try:
        import_mnist(source, Writer(output), "train")
        assert tracemalloc.get_traced_memory()[1] < 2 << 20  # of 4 MB of images; labels as int64 are 320 KB
    finally:
        tracemalloc.stop()


def test_emnist_is_turned_upright_and_has_its_letters(tmp_path, output):
    sideways = IMAGES.transpose(0, 2, 1).copy()
    letters = put(tmp_path / "e", "emnist-letters-", images=sideways, labels=LABELS + 1)
    put(tmp_path / "e", "emnist-balanced-", images=sideways)
    with pytest.raises(UserError, match="e: holds several sets of train images; give the file of one: "
                                        "emnist-balanced-train-images-idx3-ubyte, emnist-letters-train"):
        import_them(tmp_path / "e", output)
    summary, data = import_them(letters, output)
    np.testing.assert_array_equal(data.images[..., 0], IMAGES)
    assert data.labels.tolist() == LABELS.tolist()
    assert summary.remarks == ["EMNIST's files store images on their side: turned upright", "labels from 1 became ids from 0"]
    (tmp_path / "letters.txt").write_text("\n".join("abcdefghijklmnopqrstuvwxyz"))
    assert import_them(letters, output, class_names=tmp_path / "letters.txt")[1].labels.tolist() == LABELS.tolist()
    (tmp_path / "e" / "emnist-letters-mapping.txt").write_text("".join(f"{n} {64 + n} {96 + n}\r\n" for n in range(1, 27)))
    (tmp_path / "e" / "emnist-balanced-mapping.txt").write_text("".join(f"{n} {48 + n}\n" for n in range(10)))
    assert import_them(letters, output)[1].class_names[:3] == ["Aa", "Bb", "Cc"]
    data = import_them(tmp_path / "e" / "emnist-balanced-train-images-idx3-ubyte", output)[1]
    assert data.class_names == list("0123456789") and data.labels.tolist() == LABELS.tolist()


def test_averaged_down(tmp_path, output):
    _, data = import_them(put(tmp_path), output, image_size=4)
    np.testing.assert_array_equal(data.images, average(IMAGES[..., None], 4))
    with pytest.raises(UserError, match="ubyte: images are 6x6, smaller than image_size 7; they would be enlarged"):
        import_them(put(tmp_path), output, image_size=7)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(1, 5), st.booleans(), st.integers(0, 99))
def test_what_was_written_is_read(tmp_path_factory, count, side, packed, seed):
    folder = tmp_path_factory.mktemp("round")
    generator = np.random.default_rng(seed)
    images, labels = (generator.integers(0, 256, shape, dtype=np.uint8) for shape in ((count, side, side), (count,)))
    import_mnist(put(folder, images=images, labels=labels, packed=packed), Writer(folder / "a.h5"), "train")
    data = open_data(str(folder / "a.h5"), side, 1)
    np.testing.assert_array_equal(data.images[..., 0], images)
    assert data.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("images, labels, message", [
    (IMAGES[:, :5], LABELS, "images-idx3-ubyte: images are 5x6; they must be square"),
    (IMAGES, LABELS[:6], "labels-idx1-ubyte: 6 labels for the 7 images of train-images-idx3-ubyte"),
    (IMAGES[:0], LABELS[:0], r"images-idx3-ubyte: is empty: its header says \[0, 6, 6\]"),
    (LABELS, LABELS, "images-idx3-ubyte: holds labels; images have 3 axes of unsigned bytes"),
    (IMAGES, IMAGES, "labels-idx1-ubyte: holds images; labels have 1 axis of unsigned bytes"),
    (IMAGES[..., None], LABELS, "images-idx3-ubyte: has 4 axes of type 0x08; images have 3 axes"),
])
def test_files_that_do_not_fit_are_named(tmp_path, output, images, labels, message, assert_nothing_written):
    with pytest.raises(UserError, match=message):
        import_them(put(tmp_path / "a", images=images, labels=labels), output)
    assert_nothing_written()


def test_files_that_are_not_there(tmp_path, output, assert_nothing_written):
    images = put(tmp_path / "a")
    (tmp_path / "a" / "train-labels-idx1-ubyte").unlink()
    os.mkfifo(tmp_path / "a" / "pipe")
    for source, message in ((images, "its labels, train-labels-idx1-ubyte or train-labels-idx1-ubyte.gz, are not beside it"),
                            (tmp_path / "b", "b: no such file or folder"),
                            (tmp_path / "a" / "train-labels-idx1-ubyte", "a file of labels; give that of the images"),
                            (tmp_path, f"{tmp_path}: has no train images; usual names are .*; it holds: a$")):
        with pytest.raises(UserError, match=message):
            import_them(source, output)
    with pytest.raises(UserError, match="pipe: not a regular file"):
        import_them(images, output, labels=tmp_path / "a" / "pipe")
    with pytest.raises(UserError, match="gone: no such file"):
        import_them(images, output, labels=tmp_path / "a" / "gone")
    assert_nothing_written()


def test_damage_is_named_and_nothing_written(tmp_path, output, assert_nothing_written):
    for packed in (False, True):
        images = put(tmp_path / str(packed), packed=packed)
        labels = images.with_name(images.name.replace("images-idx3", "labels-idx1"))
        for path in (images, labels):
            whole = path.read_bytes()
            broken = [whole[:length] for length in range(0, len(whole), max(1, len(whole) // 20))]
            broken += [whole + b"x" if not packed else gzip.compress(gzip.decompress(whole) + b"x"), b"hello" * 9]
            header = range(16 if not packed else 0)  # a changed pixel of a file without checksum is a pixel
            broken += [whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1:]
                       for place in (header if path == images else header[:8]) for bit in (1, 128)]
            if packed:
                broken += [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:] for place in range(20, len(whole), 7)]
            for content in broken:
                path.write_bytes(content)
                with pytest.raises(UserError, match=rf"{path}: |{labels}: "):
                    import_them(images, output)
            path.write_bytes(whole)
    assert_nothing_written()


def test_a_file_that_unpacks_to_much_is_refused(tmp_path, output, assert_nothing_written):
    images = put(tmp_path / "a", packed=True)
    header = bytes([0, 0, 8, 3]) + struct.pack(">3I", 1 << 20, 28, 28)
    images.write_bytes(gzip.compress(header + bytes(1 << 20)))
    with pytest.raises(UserError, match="gz: unpacks from .* KiB to 784 MiB, which images do not"):
        import_them(images, output)
    images.write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", 1 << 31, 1 << 31, 1 << 31)))
    with pytest.raises(UserError, match="gz: unpacks from "):
        import_them(images, output)
    assert_nothing_written()
