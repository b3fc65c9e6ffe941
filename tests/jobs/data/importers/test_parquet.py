"""Parquet files with a column of images."""

import numpy as np
import pyarrow
import pytest
from made_archives import encoded, greys, parquet
from pyarrow import parquet as library

from jobs.data.dataset import open_data
from jobs.data.importers.encoded import Form
from jobs.data.importers.parquet import import_parquet
from jobs.data.importers.reading import extras
from jobs.data.importers.writer import Writer
from jobs.errors import UserError

FORM = Form(8, 1)
IMAGES = [encoded(pixels) for pixels in greys(8)]


def read(output):
    data = open_data(str(output), 8, 1)
    return (data.images[:, 0, 0, 0] // 10).tolist(), None if data.labels is None else data.labels.tolist(), data.class_names


def test_files_of_hugging_face(tmp_path, output):
    names = ["ant", "bee", "cat"]
    parquet(tmp_path / "data/train-00001-of-00002.parquet", IMAGES[5:], [0, 2, 2], names)
    parquet(tmp_path / "data/train-00000-of-00002.parquet", IMAGES[:5], [0, 0, 1, 2, 2], names, rows=2)
    reports = []
    summary = import_parquet([tmp_path / "data"], Writer(output, lambda *pair: reports.append(pair)), FORM)
    assert read(output) == (list(range(8)), [0, 0, 1, 2, 2, 0, 2, 2], names) and reports[-1] == (8, 8)
    assert summary.remarks == ["columns: images: image, labels: label"]
    parquet(tmp_path / "data/test-00000-of-00001.parquet", IMAGES[:1], [0], names)
    with pytest.raises(UserError, match=r"holds several series of files: test-\*-of-\*.parquet, train-.*choose with a pattern"):
        import_parquet([tmp_path / "data"], Writer(output), FORM)
    import_parquet([tmp_path / "data/train-*.parquet"], Writer(output), FORM, label="none")
    assert read(output) == (list(range(8)), None, [])


def test_columns_of_other_programs(tmp_path, output):
    import_parquet([parquet(tmp_path / "a.parquet", IMAGES[:3], ["bee", "ant", "bee"], struct=False)], Writer(output), FORM)
    assert read(output) == ([0, 1, 2], [1, 0, 1], ["ant", "bee"])
    two = pyarrow.table({"img": IMAGES[:3], "mask": IMAGES[3:6], "fine": [2, 1, 0], "weight": [0.5, 0.5, 0.5]})
    library.write_table(two, tmp_path / "two.parquet")
    for options, message in (({}, "has several columns of images: img, mask; choose one with --image NAME"),
                             ({"image": "image"}, "has no column image; it has img, mask, fine, weight"),
                             ({"image": "img", "label": "weight"}, "the column weight is double; labels are whole numbers")):
        with pytest.raises(UserError, match=message):
            import_parquet([tmp_path / "two.parquet"], Writer(output), FORM, **options)
    import_parquet([tmp_path / "two.parquet"], Writer(output), FORM, image="mask")
    assert read(output) == ([3, 4, 5], None, [])
    import_parquet([tmp_path / "two.parquet"], Writer(output), FORM, image="img", label="fine")
    assert read(output) == ([0, 1, 2], [2, 1, 0], [])
    library.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "text.parquet")
    with pytest.raises(UserError, match="no column of encoded images .*; it has text: string"):
        import_parquet([tmp_path / "text.parquet"], Writer(output), FORM)


def test_rows_without_an_image_are_named(tmp_path, output, assert_nothing_written):
    file = parquet(tmp_path / "a.parquet", [IMAGES[0], None, b"JPEG", IMAGES[1]], [0, 1, 1, None], ["ant", "bee"])
    with pytest.raises(UserError) as caught:
        import_parquet([file], Writer(output), FORM)
    assert str(caught.value).splitlines()[1:] == [
        "  a.parquet, row 1 (1.png): holds no bytes; a path alone is not followed",
        "  a.parquet, row 2 (2.png): not an image of a type that Pillow reads", "  a.parquet, row 3 (3.png): has no label"]
    assert_nothing_written()
    assert import_parquet([file], Writer(output), Form(8, 1, "skip")).count == 1


def test_damaged_files_are_one_sentence(tmp_path, output, assert_nothing_written):
    whole = parquet(tmp_path / "whole.parquet", [encoded(kind="bmp") for _ in range(40)], [0] * 40, ["ant"], rows=4).read_bytes()
    random = np.random.default_rng(0)
    (tmp_path / "cut.parquet").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "text.parquet").write_text("notes")
    holed = bytearray(whole)
    holed[len(whole) // 4:len(whole) // 2] = random.bytes(len(whole) // 2 - len(whole) // 4)
    (tmp_path / "holed.parquet").write_bytes(holed)
    for name in ("cut", "empty", "text", "holed"):
        with pytest.raises(UserError, match=rf"^{tmp_path}/{name}.parquet: (not a parquet file|damaged|\d+ of 40)"):
            import_parquet([tmp_path / f"{name}.parquet"], Writer(output), FORM)
    assert_nothing_written()


def test_files_that_do_not_fit_together(tmp_path, output, monkeypatch, assert_nothing_written):
    files = [parquet(tmp_path / "0.parquet", IMAGES[:2], [0, 1], ["ant", "bee"]),
             parquet(tmp_path / "1.parquet", IMAGES[:2], [0, 1], ["bee", "ant"])]
    with pytest.raises(UserError, match="1.parquet: its columns or class names are not those of .*0.parquet"):
        import_parquet([tmp_path], Writer(output), FORM)
    with pytest.raises(UserError, match="0.parquet: given more than once"):
        import_parquet([files[0], tmp_path], Writer(output), FORM)
    with pytest.raises(UserError, match=r"2.parquet: no such file; missing in all: 2.parquet, 3.parquet"):
        import_parquet([tmp_path / "{0..3}.parquet"], Writer(output), FORM)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^needs pyarrow: pip install 'iddpm\[parquet\]'$"):
        import_parquet(files, Writer(output), FORM)
    assert_nothing_written()
