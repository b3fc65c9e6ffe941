"""Zips of images with dataset.json as data sets."""

import io
import json
import os
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_images import noise
from PIL import Image

from jobs.data.dataset import open_data
from jobs.data.importers import dataset_zip, encoded
from jobs.data.importers.averaged import average
from jobs.data.importers.dataset_zip import import_zip
from jobs.data.importers.writer import Writer
from jobs.errors import UserError
from jobs.storage import datasets

IMAGES = noise(6, 8, 8, 3)
LABELS = [3, 0, 1, 1, 2, 3]
NAMES = [f"0000{number // 3}/img0000000{number}.png" for number in range(6)]


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=0)
    return buffer.getvalue()


PNGS = dict(zip(NAMES, map(png, IMAGES), strict=True))


def put(path, entries=PNGS, labels=LABELS, **others):
    """Write a zip. `labels` of the entries in their order, None for null, or what dataset.json holds."""
    if isinstance(labels, list) and not others.get("as_given"):
        labels = [list(pair) for pair in zip(entries, labels, strict=False)]
    with zipfile.ZipFile(path, "w", others.get("compression", zipfile.ZIP_STORED)) as archive:
        for name, content in reversed(entries.items()):
            archive.writestr(name, content)
        if labels != "absent":
            archive.writestr("dataset.json", labels if isinstance(labels, str) else json.dumps({"labels": labels}))
    return path


def import_them(source, output, *options, size=8, channels=3, **more):
    return import_zip(source, Writer(output), *options, **more), open_data(str(output), size, channels)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_images_come_in_the_order_of_their_names(tmp_path, output, monkeypatch, compression):
    monkeypatch.setattr(encoded, "_BLOCK", 4)
    summary, data = import_them(put(tmp_path / "a.zip", compression=compression), output)
    np.testing.assert_array_equal(data.images, IMAGES)
    assert data.labels.tolist() == LABELS and data.source == f"zip file {tmp_path / 'a.zip'}"
    assert (summary.count, summary.skipped, summary.classes, summary.remarks) == (6, [], [], [])
    (tmp_path / "names").write_text("a\nb\nc\nd\n")
    assert import_them(tmp_path / "a.zip", output, class_names=tmp_path / "names")[1].class_names == list("abcd")


@pytest.mark.parametrize("labels, remark", [(None, "no labels: dataset.json has none"), ("absent", "no labels: no dataset.json"),
                                            ([], "no labels: dataset.json has none")])
def test_a_zip_without_labels(tmp_path, output, labels, remark):
    summary, data = import_them(put(tmp_path / "a.zip", labels=labels), output)
    assert data.labels is None and summary.remarks == [remark]
    (tmp_path / "names").write_text("a\nb\nc\nd\n")
    with pytest.raises(UserError, match="a.zip: has no labels, so there are no classes for the names in"):
        import_them(tmp_path / "a.zip", output, class_names=tmp_path / "names")


def test_grey_images_and_other_files(tmp_path, output):
    grey = {name: png(image[..., 0]) for name, image in PNGS_AS_ARRAYS.items()}
    entries = {**grey, "__MACOSX/._x.png": b"", ".hidden.png": b"", "notes.txt": b"", "folder/": b""}
    summary, data = import_them(put(tmp_path / "a.zip", entries, labels=None), output, channels=1)
    np.testing.assert_array_equal(data.images, IMAGES[..., :1])
    assert summary.remarks[-1] == "left out 3 files that are no pictures: 2 hidden, 1 .txt"


PNGS_AS_ARRAYS = dict(zip(NAMES, IMAGES, strict=True))


def test_averaged_down(tmp_path, output):
    summary, data = import_them(put(tmp_path / "a.zip"), output, size=4, image_size=4)
    np.testing.assert_array_equal(data.images, average(IMAGES, 4))
    assert data.source.endswith("a.zip, averaged from 8x8 to 4x4") and not summary.remarks
    with pytest.raises(UserError, match="a.zip: images are 8x8, smaller than image_size 9; they would be enlarged"):
        import_them(tmp_path / "a.zip", output, image_size=9)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 6), st.integers(1, 9), st.sampled_from([1, 3]), st.integers(0, 99))
def test_what_was_written_is_read(tmp_path_factory, count, side, channels, seed):
    folder = tmp_path_factory.mktemp("round")
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    labels = generator.integers(0, 99, count).tolist()
    entries = {f"{number:03}.png": png(image.squeeze(2) if channels == 1 else image) for number, image in enumerate(images)}
    _, data = import_them(put(folder / "a.zip", entries, labels), folder / "a.h5", size=side, channels=channels)
    np.testing.assert_array_equal(data.images, images)
    assert data.labels.tolist() == labels


def bad_entries():
    """Entries that cannot be used, and what is said of each."""
    cut = PNGS[NAMES[0]]
    return {"1/small.png": (png(noise(4, 4, 3)), "4x4, but the first image is 8x8"),
            "1/large.png": (png(noise(8, 9, 3)), "9x8, but the first image is 8x8"),
            "1/grey.png": (png(noise(8, 8)), "grey, but the first image is coloured"),
            "1/empty.png": (b"", "zero bytes"),
            "1/cut.png": (cut[:len(cut) // 2], "not decodable"),
            "1/text.png": (b"no picture", "not an image of a type that Pillow reads")}


def test_bad_images_are_named_or_skipped(tmp_path, output, assert_nothing_written):
    bad = bad_entries()
    entries = {**PNGS, **{name: content for name, (content, _) in bad.items()}}
    source = put(tmp_path / "a.zip", entries, LABELS + [0] * len(bad))
    with pytest.raises(UserError, match="a.zip: 6 of 12 images cannot be used, nothing .* --on-error skip:") as error:
        import_them(source, output)
    for name, (_, reason) in bad.items():
        assert f"\n  {name}: {reason}" in str(error.value)
    assert_nothing_written()
    summary, data = import_them(source, output, "skip")
    np.testing.assert_array_equal(data.images, IMAGES)
    assert data.labels.tolist() == LABELS and sorted(name for name, _ in summary.skipped) == sorted(bad)


def test_labels_and_images_that_lack_each_other_are_named(tmp_path, output):
    labels = [[name, label] for name, label in zip(NAMES, LABELS, strict=True)]
    source = put(tmp_path / "a.zip", labels=[*labels[:5], ["../../etc/passwd.png", 1]], as_given=True)
    with pytest.raises(UserError) as error:
        import_them(source, output)
    assert f"{NAMES[5]}: has no label\n" in str(error.value)
    assert "  ../../etc/passwd.png: has a label in dataset.json, and is not in the zip" in str(error.value)
    summary, data = import_them(source, output, "skip")
    assert summary.count == 5 and data.labels.tolist() == LABELS[:5]


@pytest.mark.parametrize("labels, message", [
    ("", "not JSON, or damaged"),
    ("{", "not JSON, or damaged"),
    ("[" * 100_000, "not JSON, or damaged"),
    ("\xff", "not JSON, or damaged|must be null"),
    ("[]", '"labels" must be null, or a list'),
    ("{}", '"labels" must be null, or a list'),
    ('{"labels": {}}', '"labels" must be null, or a list'),
    ('{"labels": null, "labels": []}', r"not JSON, or damaged \(labels is there twice\)"),
    ('{"labels": [["a.png"]]}', r'label 0 is \["a.png"\]; it must be \[file name, class id\]'),
    ('{"labels": [[1, 2]]}', "label 0 is"),
    ('{"labels": [["a.png", [0.5, 1]]]}', "the label of a.png has 2 numbers; only class ids can be used"),
    ('{"labels": [["a.png", NaN]]}', "the label of a.png is NaN; class ids are whole numbers from 0"),
    ('{"labels": [["a.png", 1.0]]}', "the label of a.png is 1.0"),
    ('{"labels": [["a.png", -1]]}', "the label of a.png is -1"),
    ('{"labels": [["a.png", true]]}', "the label of a.png is true"),
    ('{"labels": [["a.png", null]]}', "the label of a.png is null"),
    ('{"labels": [["a.png", 1], ["a.png", 1]]}', "has two labels for a.png"),
    ('{"labels": [["a.png", ' + "9" * 5000 + ']]}', "not JSON, or damaged"),
])
def test_bad_labels_are_named(tmp_path, output, labels, message, assert_nothing_written):
    with pytest.raises(UserError, match=f"a.zip: dataset.json: ({message})"):
        import_them(put(tmp_path / "a.zip", labels=labels), output)
    assert_nothing_written()


def test_names_that_no_terminal_can_show(tmp_path, output):
    labels = json.dumps({"labels": [["\ud800\x1b[31m.png", 1], *([name, 0] for name in NAMES)]})
    with pytest.raises(UserError) as error:
        import_them(put(tmp_path / "a.zip", labels=labels), output)
    assert "1 of 7 images cannot be used" in str(error.value).encode().decode() and "\x1b" not in str(error.value)


def test_labels_that_do_not_fit_in_memory(tmp_path, output, monkeypatch, assert_nothing_written):
    monkeypatch.setattr(datasets, "_memory", lambda: 1000)
    with pytest.raises(UserError, match="a.zip: dataset.json: needs .* of memory, where 1000 B are free"):
        import_them(put(tmp_path / "a.zip"), output)
    assert_nothing_written()


@pytest.mark.parametrize("entries, message", [
    ({}, "no pictures in it; no other files"),
    ({"img-latents-0.npy": b"x"}, "no pictures in it; 1 file that is no picture: 1 .npy; .npy are latents of EDM2"),
    ({"a.png": png(noise(8, 9, 3))}, "a.png: 9x8; images must be square. Unpack the zip, and crop"),
    ({"a.png": b"x", "b.png": b""}, "none of its 2 images can be read, nothing was written; the first is a.png: not an image"),
])
def test_zips_without_a_first_image(tmp_path, output, entries, message, assert_nothing_written):
    with pytest.raises(UserError, match=f"a.zip: {message}"):
        import_them(put(tmp_path / "a.zip", entries, None), output)
    assert_nothing_written()


def test_what_is_no_zip(tmp_path, output, assert_nothing_written):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text.zip").write_text("no zip")
    for source, message in (("gone.zip", "no such file"), ("pipe", "not a regular file"),
                            ("text.zip", "not a zip file, or a damaged one"), (".", "a folder; `iddpm data folder` imports it")):
        with pytest.raises(UserError, match=message):
            import_them(tmp_path / source, output)
    assert_nothing_written()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_that_are_doubled_encrypted_or_bombs(tmp_path, output, monkeypatch, assert_nothing_written):
    monkeypatch.setattr(dataset_zip, "_MOST_IMAGE", 1 << 20)
    source = put(tmp_path / "a.zip", labels=None)
    with zipfile.ZipFile(source, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(NAMES[5], PNGS[NAMES[0]])
        archive.writestr("z.png", bytes(2 << 20))
    content = bytearray(source.read_bytes())
    directory = content.index(b"PK\x01\x02")
    entry = content.index(NAMES[3].encode(), directory) - 46
    content[entry + 8] |= 1  # encrypted
    entry = content.index(NAMES[4].encode(), directory) - 46
    content[entry + 24:entry + 28] = struct.pack("<I", 0xF0000000)  # declared size
    source.write_bytes(content)
    with pytest.raises(UserError) as error:
        import_them(source, output)
    for words in ("4 of 7 images cannot be used", f"{NAMES[3]}: is encrypted", f"{NAMES[5]}: is in the zip 2 times",
                  f"{NAMES[4]}: unpacks to 3.75 GiB, and more than 1 MiB are not read", "z.png: unpacks to 2 MiB"):
        assert words in str(error.value)
    assert_nothing_written()


def test_damage_is_an_error_or_does_no_harm(tmp_path, output):
    source = put(tmp_path / "a.zip")
    whole, generator = source.read_bytes(), np.random.default_rng(0)
    import_them(source, output)
    good = open_data(str(output), 8, 3)
    images, labels = np.array(good.images), good.labels
    for place in [*generator.integers(0, len(whole), 80), *range(len(whole) - 22, len(whole))]:
        source.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << generator.integers(8))]) + whole[place + 1:])
        try:
            import_zip(source, Writer(output))
        except UserError as error:
            assert str(source) in str(error)
        else:  # the flipped bit was of a date, or of a name
            data = open_data(str(output), 8, 3)
            np.testing.assert_array_equal(np.sort(data.images, 0), np.sort(images, 0))
            assert data.labels is None or data.labels.tolist() == labels.tolist()
    for length in generator.integers(0, len(whole) - 22, 20):
        source.write_bytes(whole[:length])
        with pytest.raises(UserError, match="a.zip: not a zip file, or a damaged one"):
            import_zip(source, Writer(output))


def test_memory_holds_few_images_at_a_time(tmp_path, output, monkeypatch):
    """Entries are read as they are needed: those of a block, and not those of the next."""
    monkeypatch.setattr(encoded, "_BLOCK", 2)
    read, most = [], []
    real_read, real_decode = dataset_zip._read, dataset_zip._decode
    monkeypatch.setattr(dataset_zip, "_read", lambda archive, name, limit: read.append(name) or real_read(archive, name, limit))

    def decode(*arguments):
        most.append(len(read))
        return real_decode(*arguments)
    monkeypatch.setattr(dataset_zip, "_decode", decode)
    import_them(put(tmp_path / "a.zip"), output)
    assert most == [4, 4, 6, 6, 8, 8]  # dataset.json and the first image's header came before
