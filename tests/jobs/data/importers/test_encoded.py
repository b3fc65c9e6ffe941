"""Streams of encoded images as data sets."""

import io

import numpy as np
import pytest
from made_images import noise
from PIL import Image

from jobs.data.dataset import open_data
from jobs.data.importers import encoded
from jobs.data.importers.encoded import Form, Record, import_records
from jobs.data.importers.writer import Writer
from jobs.errors import UserError


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def import_them(records, output, form=None, labelled=False, **options):
    return import_records(records, Writer(output), form or Form(8, 1), "a.tar", "tar file a.tar", labelled, **options)


def test_names_and_ids_label_the_images(output):
    pixels = noise(4, 8, 8)
    named = [Record(f"{name}.png", png(image), name) for name, image in zip("baca", pixels, strict=True)]
    summary = import_them(named, output, labelled=True)
    data = open_data(str(output), 8, 1, 3)
    assert data.class_names == summary.classes == ["a", "b", "c"] and data.labels.tolist() == [1, 0, 2, 0]
    assert (data.source, summary.remarks) == ("tar file a.tar", ["classes in the order of the alphabet: a, b, c"])
    np.testing.assert_array_equal(data.images[..., 0], pixels)
    import_them(named, output, labelled=True, class_names=["c", "a", "b", "z"])
    data = open_data(str(output), 8, 1, 4)
    assert data.class_names == ["c", "a", "b", "z"] and data.labels.tolist() == [2, 1, 0, 1]
    import_them([Record("x", png(image), 7 - place) for place, image in enumerate(pixels)], output, labelled=True)
    assert open_data(str(output), 8, 1, 8).labels.tolist() == [7, 6, 5, 4]
    import_them(named, output)
    assert open_data(str(output), 8, 1).labels is None


def test_numbers_and_names_are_not_mixed(output):
    first, *others = (Record(f"{label}.png", png(noise(8, 8)), label) for label in ("cat", 0, "dog", 1))
    with pytest.raises(UserError, match="2 of 4 (.|\\n)*  0.png: its class 0 is a number, but the first class is a name\n"):
        import_them([first, *others], output, labelled=True)
    assert import_them([first, *others], output, Form(8, 1, "skip"), labelled=True).classes == ["cat", "dog"]
    with pytest.raises(UserError, match="1 of 2 (.|\\n)*  cat.png: its class cat is a name, but the first class is a number"):
        import_them([others[0], first], output, labelled=True)
    import_them([first, *others], output, labelled=True, class_names=["dog", "cat"])
    assert open_data(str(output), 8, 1, 2).labels.tolist() == [1, 0, 0, 1]  # names say what a number means


@pytest.mark.parametrize("record, names, reason", [
    (Record("x", b"PNG", 0), (), "not an image of a type that Pillow reads"),
    (Record("x", b"", 0), (), "zero bytes"),
    (Record("x", png(noise(8, 8))[:60], 0), (), "not decodable"),
    (Record("x", png(noise(7, 8)), 0), (), "8x7, smaller than image_size 8"),
    (Record("x", b"", problem="ends after 3 of 9 bytes"), (), "ends after 3 of 9 bytes"),
    (Record("x", png(noise(8, 8))), (), "has no label"),
    (Record("x", png(noise(8, 8)), -1), (), "its label -1 is outside 0 .. 99999"),
    (Record("x", png(noise(8, 8)), 1 << 70), (), "its label 1180591620717411303424 is outside 0 .. 99999"),
    (Record("x", png(noise(8, 8)), 2), ("a", "b"), "its label 2 is outside 0 .. 1"),
    (Record("x", png(noise(8, 8)), "c"), ("a", "b"), "its class c is not among the 2"),
])
def test_a_record_that_cannot_be_used_is_named(output, record, names, reason, assert_nothing_written):
    good = Record("good", png(noise(8, 8)), 1)
    with pytest.raises(UserError, match=rf"a.tar: 1 of 2 images cannot be used, nothing was written(.|\n)*  x: {reason}"):
        import_them([good, record], output, labelled=True, class_names=names)
    assert_nothing_written()
    summary = import_them([record, good], output, Form(8, 1, "skip"), labelled=True, class_names=names)
    assert summary.count == 1 and summary.skipped[0][0] == "x" and summary.skipped[0][1].startswith(reason)
    assert open_data(str(output), 8, 1, 2).labels.tolist() == [1]


def test_a_source_without_images(output, assert_nothing_written):
    with pytest.raises(UserError, match="a.tar: holds no images"):
        import_them([], output)
    assert_nothing_written()


def test_an_error_of_the_source_writes_nothing(output, assert_nothing_written):
    def records():
        yield Record("x", png(noise(8, 8)))
        raise UserError("a.tar: is damaged")
    with pytest.raises(UserError, match="a.tar: is damaged"):
        import_them(records(), output)
    assert_nothing_written()


def test_images_of_16_bits_are_decoded_again_when_all_are_known(output):
    twelve, eight = np.arange(64, dtype=np.uint16).reshape(8, 8) * 64, noise(8, 8)
    summary = import_them([Record("a", png(twelve)), Record("b", png(eight)), Record("c", png(twelve[::-1]))], output)
    images = open_data(str(output), 8, 1).images[..., 0]
    for image, expected in zip(images, (twelve >> 4, eight, twelve[::-1] >> 4), strict=True):
        np.testing.assert_array_equal(image, expected)
    assert summary.remarks[-1] == "2 images of 16 bits: no value needs more than 12, so 12 bits were made 8"


def test_blocks_hold_few_images_and_few_bytes(output, monkeypatch):
    monkeypatch.setattr(encoded, "_BLOCK", 4)
    taken, reports = [], []
    content = png(noise(8, 8))

    def records():
        for number in range(10):
            taken.append(number)
            yield Record(str(number), content)

    def decode(picture, bits):
        waiting.append(len(taken) - len(waiting))
        return Form(8, 1).decode(picture, bits)
    for most, block in ((64 << 20, 4), (2 * len(content), 2)):
        monkeypatch.setattr(encoded, "_BLOCK_BYTES", most)
        waiting = []
        taken.clear()
        import_records(records(), Writer(output, lambda *pair: reports.append(pair)), Form(8, 1), "a", "a", False, decode=decode)
        assert max(waiting) == block
    assert reports == [(4, 0), (8, 0), (4, 0), (8, 0)]
