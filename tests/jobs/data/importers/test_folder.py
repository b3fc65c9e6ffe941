"""Folders of images as data sets."""

import os

import h5py
import numpy as np
import pytest
from made_images import noise, save
from PIL import Image

from jobs.data.dataset import ImageData, fingerprint, open_data
from jobs.data.importers import encoded
from jobs.data.importers.encoded import Form
from jobs.data.importers.folder import import_folder
from jobs.data.importers.writer import Writer
from jobs.errors import UserError


def attributes(path):
    with h5py.File(path) as file:
        return dict(file.attrs)


def small_folder(folder):
    """Three classes; images in the order of their paths. Returns pixels and class names in that order."""
    names = ["bee/b.png", "bee/deeper/a.png", "ant/c.png", "cat/a.PNG", "ant/a_1.png"]
    pixels = {name: noise(8, 8, 3) for name in names}
    for name in names:
        save(folder / name, pixels[name])
    ordered = sorted(names)
    return np.stack([pixels[name] for name in ordered]), [name.split("/")[0] for name in ordered]


def test_folder_with_labels_by_subfolder(folder, output, monkeypatch):
    monkeypatch.setattr(encoded, "_BLOCK", 2)
    pixels, names = small_folder(folder)
    (folder / "ant" / "notes.txt").write_text("not an image")
    (folder / ".cache").mkdir()
    save(folder / ".cache" / "thumbnail.png", noise(8, 8, 3))
    (folder / "ant" / "._a_1.png").write_bytes(b"what some systems leave behind")
    reports = []
    summary = import_folder(folder, Writer(output, lambda *pair: reports.append(pair)), Form(8, 3), "subfolder")
    assert (summary.count, summary.skipped, summary.classes) == (5, [], ["ant", "bee", "cat"])
    assert summary.remarks == ["classes in the order of the alphabet: ant, bee, cat",
                               "left out 3 files that are no pictures: 2 hidden, 1 .txt"]
    assert reports == [(2, 5), (4, 5), (5, 5)]
    data = open_data(str(output), 8, 3, 3)
    assert isinstance(data.images, np.memmap)
    np.testing.assert_array_equal(data.images, pixels)
    assert [data.class_names[label] for label in data.labels] == names
    assert data.source == f"folder {folder}, 8x8, labels: subfolder"
    assert os.listdir(output.parent) == ["data.h5"]


def test_folder_with_labels_by_prefix(folder, output):
    for name in ("dog_1.png", "sub/cat_2_x.png", "cat_1.png"):
        save(folder / name, noise(8, 8))
    assert import_folder(folder, Writer(output), Form(8, 1), "prefix").classes == ["cat", "dog"]
    assert open_data(str(output), 8, 1, 2).labels.tolist() == [0, 1, 0]


def test_folder_without_labels(folder, output):
    pixels, _ = small_folder(folder)
    assert import_folder(folder, Writer(output), Form(8, 3), "none").classes == []
    data = open_data(str(output), 8, 3)
    assert data.labels is None and data.class_names == []
    np.testing.assert_array_equal(data.images, pixels)


@pytest.mark.parametrize("labels, reason", [("subfolder", "not in a sub-folder, so it has no label"),
                                            ("prefix", 'no class name before a "_" in its file name')])
def test_an_image_whose_class_is_unknown_is_bad(folder, output, labels, reason, assert_nothing_written):
    save(folder / "x" / "a_1.png", noise(8, 8))
    save(folder / "plain.png", noise(8, 8))
    with pytest.raises(UserError, match=f"plain.png: {reason}"):
        import_folder(folder, Writer(output), Form(8, 1), labels)
    assert_nothing_written()
    assert import_folder(folder, Writer(output), Form(8, 1, "skip"), labels).skipped == [("plain.png", reason)]


def odd_images(folder, monkeypatch):
    """Files that cannot be used, each in class "odd", and what is said of each; beside them two good ones."""
    whole = noise(40, 40, 3)
    expected = {}
    for suffix in ("jpg", "png", "gif", "webp", "bmp"):
        path = save(folder / "odd" / f"cut.{suffix}", whole)
        path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
        expected[f"odd/cut.{suffix}"] = "not decodable"
    save(folder / "odd" / "tail.jpg", whole)
    (folder / "odd" / "tail.jpg").write_bytes((folder / "odd" / "tail.jpg").read_bytes()[:-10])
    expected["odd/tail.jpg"] = "not decodable"
    (folder / "odd" / "empty.png").write_bytes(b"")
    expected["odd/empty.png"] = "zero bytes"
    (folder / "odd" / "text.jpeg").write_text("this is no image")
    expected["odd/text.jpeg"] = "not an image of a type that Pillow reads"
    (folder / "odd" / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # EPS starts a program
    expected["odd/script.png"] = "not an image of a type that Pillow reads"
    save(folder / "odd" / "small.png", noise(7, 30, 3))
    expected["odd/small.png"] = "30x7, smaller than image_size 8; it would be enlarged"
    os.symlink(folder / "nowhere", folder / "odd" / "link.png")
    expected["odd/link.png"] = "not decodable ([Errno 2] No such file or directory"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    save(folder / "odd" / "bomb.png", noise(50, 50, 3))
    expected["odd/bomb.png"] = "50x50 pixels: suspected decompression bomb"
    save(folder / "odd" / "bigger-bomb.png", noise(100, 100, 3))
    expected["odd/bigger-bomb.png"] = "not decodable (Image size (10000 pixels) exceeds limit"
    good = noise(2, 8, 8, 3)
    save(folder / "ant" / "a.png", good[0])
    save(folder / "zebra" / "a.png", good[1])
    return good, expected


def test_bad_images_are_all_counted_and_ten_named(folder, output, monkeypatch, assert_nothing_written):
    monkeypatch.setattr(encoded, "_BLOCK", 4)
    _, expected = odd_images(folder, monkeypatch)
    with pytest.raises(UserError) as error:
        import_folder(folder, Writer(output), Form(8, 3), "subfolder")
    first, *lines, last = str(error.value).splitlines()
    assert first == (f"{folder}: 13 of 15 images cannot be used, nothing was written; "
                     "mend or remove them, or leave them out with --on-error skip:")
    assert len(lines) == 10 and last == "  and 3 more"
    for line, (path, reason) in zip(lines, sorted(expected.items())[:10], strict=True):
        assert line.startswith(f"  {path}: {reason}")
    assert_nothing_written()


def test_bad_images_are_skipped_and_listed(folder, output, monkeypatch):
    monkeypatch.setattr(encoded, "_BLOCK", 4)
    good, expected = odd_images(folder, monkeypatch)
    summary = import_folder(folder, Writer(output), Form(8, 3, "skip"), "subfolder")
    assert summary.count == 2 and [path for path, _ in summary.skipped] == sorted(expected)
    for path, reason in summary.skipped:
        assert reason.startswith(expected[path])
    data = open_data(str(output), 8, 3, 3)
    np.testing.assert_array_equal(data.images, good)
    # "odd" has no image left but keeps its id.
    assert summary.classes == data.class_names == ["ant", "odd", "zebra"] and data.labels.tolist() == [0, 2]
    assert attributes(output)["skipped"] == 13
    assert os.listdir(output.parent) == ["data.h5"]


def test_when_no_image_is_left(folder, output, assert_nothing_written):
    save(folder / "a.png", noise(4, 4))
    with pytest.raises(UserError, match=r"1 of 1 images cannot be used, nothing was written:\n  a.png: 4x4, smaller"):
        import_folder(folder, Writer(output), Form(8, 1, "skip"), "none")
    assert_nothing_written()


def test_folders_without_images(tmp_path, folder, output, assert_nothing_written):
    with pytest.raises(UserError, match="images: no such folder"):
        import_folder(folder, Writer(output), Form(8, 3, "skip"), "none")
    folder.mkdir()
    (folder / "a.txt").write_text("")
    with pytest.raises(UserError, match=r"images: no pictures in it or below; 1 file that is no picture: 1 .txt"):
        import_folder(folder, Writer(output), Form(8, 3, "skip"), "none")
    with pytest.raises(UserError, match="image_size is 0; it must be at least 1"):
        import_folder(folder, Writer(output), Form(0, 3, "skip"), "none")
    assert_nothing_written()


def test_linked_folders_are_followed_once(tmp_path, folder, output):
    save(tmp_path / "elsewhere" / "a.png", noise(8, 8))
    save(folder / "ant" / "a.png", noise(8, 8))
    os.symlink(tmp_path / "elsewhere", folder / "bee")
    assert import_folder(folder, Writer(output), Form(8, 1), "subfolder").classes == ["ant", "bee"]
    os.symlink(folder, folder / "ant" / "loop")
    with pytest.raises(UserError, match="ant/loop: leads to a folder that is read already"):
        import_folder(folder, Writer(output), Form(8, 1), "subfolder")


def test_file_names_of_any_bytes(folder, output):
    name = os.fsdecode(b"a\xff\n.png")
    save(folder / "ok.png", noise(8, 8))
    (folder / name).write_bytes(b"")
    with pytest.raises(UserError) as error:
        import_folder(folder, Writer(output), Form(8, 1), "none")
    assert "\n  a\\xff\\n.png: zero bytes" in str(error.value).encode("utf-8").decode()
    assert import_folder(folder, Writer(output), Form(8, 1, "skip"), "none").skipped == [("a\\xff\\n.png", "zero bytes")]
    (folder / name).unlink()
    save(folder / os.fsdecode(b"\xff") / "x.png", noise(8, 8))
    save(folder / "plain" / "x.png", noise(8, 8))
    classes = import_folder(folder, Writer(output), Form(8, 1, "skip"), "subfolder").classes
    assert open_data(str(output), 8, 1, 2).class_names == classes == ["plain", os.fsdecode(b"\xff")]


def test_many_long_class_names(folder, output):
    names = [f"{number:04d}-" + "long" * 30 for number in range(600)]  # together 75 KB
    for name in names:
        save(folder / name / "x.bmp", np.zeros((1, 1), np.uint8))
    assert import_folder(folder, Writer(output), Form(1, 1), "subfolder").classes == names
    assert open_data(str(output), 1, 1, 600).class_names == names


def test_large_images_pass_through_memory_one_by_one(folder, output, monkeypatch):
    """In the importer, in the writer and in the fingerprint."""
    from jobs.data import dataset
    from jobs.data.importers import writer
    pixels, _ = small_folder(folder)
    expected = fingerprint(ImageData(pixels, None, [], ""))
    for module in (dataset, encoded, writer):
        monkeypatch.setattr(module, "_BLOCK_BYTES", 500)  # two images of 192 bytes
    sizes = []
    write = Writer.write
    monkeypatch.setattr(Writer, "write", lambda self, blocks, *rest: write(
        self, (sizes.append(len(block)) or block for block in blocks), *rest))
    import_folder(folder, Writer(output), Form(8, 3), "none")
    data = open_data(str(output), 8, 3)
    assert sizes == [2, 2, 1] and fingerprint(data) == expected
    np.testing.assert_array_equal(data.images, pixels)
