"""LSUN: databases, and the folders that were exported from them."""

import pytest
from made_archives import database, encoded, greys

from jobs.data.dataset import open_data
from jobs.data.importers.encoded import Form
from jobs.data.importers.lsun import import_lsun
from jobs.data.importers.reading import extras
from jobs.data.importers.writer import Writer
from jobs.errors import UserError

FORM = Form(8, 1)


def read(output):
    data = open_data(str(output), 8, 1)
    return (data.images[:, 0, 0, 0] // 10).tolist(), None if data.labels is None else data.labels.tolist(), data.class_names


@pytest.fixture
def lsun(tmp_path):
    """bedroom as database, tower as folders, and another database of the split val."""
    images = [encoded(pixels, "webp" if number < 3 else "png") for number, pixels in enumerate(greys(8))]
    database(tmp_path / "lsun/bedroom_train_lmdb", {"b0": images[1], "a0": images[0], "c0": images[2]})
    database(tmp_path / "lsun/bedroom_val_lmdb", {"v0": images[7]})
    for number, key in ((3, "0a1bffee"), (4, "ffa1bffe")):
        folder = tmp_path / "lsun/tower_train" / "/".join(key[:6])
        folder.mkdir(parents=True)
        (folder / f"{key}.webp").write_bytes(images[number])
    return tmp_path / "lsun"


def test_one_category_has_no_classes(lsun, output):
    reports = []
    import_lsun(lsun / "bedroom_train_lmdb", Writer(output, lambda *pair: reports.append(pair)), FORM, "train")
    assert read(output) == ([0, 1, 2], None, []) and reports[-1] == (3, 3)
    import_lsun(lsun / "bedroom_train_lmdb/data.mdb", Writer(output), FORM, "val")
    assert read(output) == ([0, 1, 2], None, [])
    import_lsun(lsun / "tower_train", Writer(output), FORM, "train")
    assert read(output) == ([3, 4], None, [])


def test_several_categories_are_classes(lsun, output):
    reports = []
    summary = import_lsun(lsun, Writer(output, lambda *pair: reports.append(pair)), FORM, "train")
    assert read(output) == ([0, 1, 2, 3, 4], [0, 0, 0, 1, 1], ["bedroom", "tower"]) and reports[-1] == (5, 5)
    assert summary.remarks[0] == "classes in the order of the alphabet: bedroom, tower"
    import_lsun(lsun, Writer(output), FORM, "val")
    assert read(output) == ([7], None, [])


def test_images_of_a_category_in_one_folder(tmp_path, output):
    (tmp_path / "flat").mkdir()
    for number, pixels in enumerate(greys(3)):
        (tmp_path / f"flat/bedroom_{number:07}.jpg").write_bytes(encoded(pixels))
    import_lsun(tmp_path / "flat", Writer(output), FORM, "train")
    assert read(output) == ([0, 1, 2], None, [])


def test_entries_that_are_no_images_are_named(tmp_path, output, assert_nothing_written):
    database(tmp_path / "bedroom_train_lmdb", {"a": encoded(greys(2)[1]), "length": b"1", "\x1b[31mred": b""})
    with pytest.raises(UserError, match=r"2 of 3 images (.|\n)*  \\x1b\[31mred: zero bytes\n  length: not an image"):
        import_lsun(tmp_path / "bedroom_train_lmdb", Writer(output), FORM, "train")
    assert_nothing_written()
    summary = import_lsun(tmp_path / "bedroom_train_lmdb", Writer(output), Form(8, 1, "skip"), "train")
    assert summary.count == 1 and len(summary.skipped) == 2


def test_wrong_sources_are_named(lsun, output, tmp_path, monkeypatch, assert_nothing_written):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "only/tower_val").mkdir(parents=True)
    (lsun / "bedroom_train").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "other/train").mkdir(parents=True)
    for source, message in (("nowhere", "nowhere: no such folder"), ("notes.txt", "notes.txt: not an LMDB database"),
                            ("only", "only: has no category of the split train; it has tower_val"),
                            ("lsun", "lsun: has a category twice"),
                            ("other", "other: holds train, which are neither databases nor categories"),
                            ("empty", "empty: no pictures in it or below")):
        with pytest.raises(UserError, match=message):
            import_lsun(tmp_path / source, Writer(output), FORM, "train")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^needs lmdb: pip install 'iddpm\[lmdb\]'$"):
        import_lsun(lsun / "bedroom_train_lmdb", Writer(output), FORM, "train")
    assert_nothing_written()
