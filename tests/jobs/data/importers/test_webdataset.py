"""Webdataset shards."""

import pytest
from made_archives import encoded, file_in_tar, greys, member, tar

from jobs.data.dataset import open_data
from jobs.data.importers.encoded import Form
from jobs.data.importers.webdataset import import_webdataset
from jobs.data.importers.writer import Writer
from jobs.errors import UserError

FORM = Form(8, 1)
IMAGES = [encoded(pixels) for pixels in greys(8)]


def read(output):
    data = open_data(str(output), 8, 1)
    return (data.images[:, 0, 0, 0] // 10).tolist(), None if data.labels is None else data.labels.tolist(), data.class_names


def test_shards_in_a_folder_by_a_range_and_one_by_one(tmp_path, output):
    classes = [2, 0, 1, 2, 0]
    for shard, numbers in enumerate(((0, 1), (2, 3), (4,))):
        files = [(f"{number:03}.{extension}", content) for number in numbers for extension, content in (
            ("cls", b"%d\n" % classes[number]), ("jpg", IMAGES[number]), ("json", b'{"label": "%c"}' % b"abc"[classes[number]]))]
        tar(tmp_path / f"shards/part-{shard:03}.tar", files)
    whole = (list(range(5)), classes, [])
    for sources in (["shards"], ["shards/part-{000..002}.tar"], ["shards/part-{000,001}.tar", "shards/part-002.tar"],
                    ["shards/*.tar"]):
        summary = import_webdataset([tmp_path / source for source in sources], Writer(output), FORM)
        assert read(output) == whole and summary.remarks == ["labels: cls"], sources
    import_webdataset([tmp_path / "shards"], Writer(output), FORM, "json")
    assert read(output) == (list(range(5)), classes, ["a", "b", "c"])
    import_webdataset([tmp_path / "shards"], Writer(output), FORM, "none")
    assert read(output) == (list(range(5)), None, [])
    for source, message in (("shards/part-{000..003}.tar", r"part-003.tar: no such file$"),
                            ("shards/x*", "no file fits this pattern"), ("shards/{5..1}.tar", "must be a range"),
                            ("shards/{1..9999999}.tar", "must be a range"),
                            ("shards/{1..1000}{1..1000}.tar", "stands for more than 100,000 files")):
        with pytest.raises(UserError, match=message):
            import_webdataset([tmp_path / source], Writer(output), FORM)


def test_how_names_are_divided(tmp_path, output):
    """The key ends at the first "." of the file's name; files of a key stand together, and only whole extensions count."""
    files = [("./a.b/1.png", IMAGES[1]), ("./a.b/1.seg.png", IMAGES[7]), ("./a.b/1.txt", b"caption"), ("./a.b/2.PNG", IMAGES[2]),
             ("a.b/2.png", IMAGES[3]), ("notes", b"x"), ("._1.png", b"what some systems leave behind"), ("only.txt", b"x")]
    summary = import_webdataset([tar(tmp_path / "a.tar", files)], Writer(output), FORM)
    assert read(output) == ([1, 2, 3], None, [])
    assert summary.remarks == ["labels: none", "left out 1 .seg.png, 2 .txt, 2 without a suffix"]


def test_examples_that_cannot_be_used_are_named(tmp_path, output, assert_nothing_written):
    def example(key, label, content=IMAGES[0], extension="json"):
        return [(f"{key}.png", content), (f"{key}.{extension}", label)]
    files = [*example("good", b'{"label": "x"}'), *example("broken", b'{"label": "x"}', IMAGES[0][:40]), *example("empty", b""),
             *example("list", b"[1]"), *example("other", b'{"class": 1}'), *example("real", b'{"label": 0.5}'),
             ("alone.png", IMAGES[0]), *example("deep", b"[" * 100_000), *example("two", b'{"label": "x"}'),
             ("two.jpg", IMAGES[0])]
    with pytest.raises(UserError) as caught:
        import_webdataset([tar(tmp_path / "a.tar", files)], Writer(output), FORM)
    lines = dict(line.strip().removeprefix("a.tar: ").split(": ", 1) for line in str(caught.value).splitlines()[1:])
    assert list(lines) == ["broken.png", "empty.png", "list.png", "other.png", "real.png", "alone.png", "deep.png", "two.png"]
    assert lines["other.png"] == ".json: has no label" and lines["alone.png"] == "no alone.json beside it"
    assert lines["real.png"] == ".json: label is 0.5; a class is a whole number or text"
    assert lines["deep.png"] == ".json: nested too deeply" and lines["two.png"] == "2 images have this key: png, jpg"
    assert_nothing_written()
    with pytest.raises(UserError, match=r"a.png: .cls: is empty(.|\n)*b.png: .cls: is there twice: .cls"):
        import_webdataset([tar(tmp_path / "b.tar", [*example("a", b" ", extension="cls"), *example("b", b"1", extension="cls"),
                                                    ("b.cls", b"2")])], Writer(output), FORM)


def test_members_that_are_no_files_are_never_followed(tmp_path, output):
    outside = tmp_path / "outside.png"
    outside.write_bytes(IMAGES[5])
    content = file_in_tar("../../good.png", IMAGES[1]) + b"".join(
        member(f"{name}.png", kind=kind, linkname=str(outside)) for name, kind in
        (("link", b"2"), ("hard", b"1"), ("device", b"3"), ("block", b"4"), ("pipe", b"6")))
    content += file_in_tar("sparse.png", IMAGES[2], type=b"S")
    (tmp_path / "a.tar").write_bytes(content + bytes(1024))
    summary = import_webdataset([tmp_path / "a.tar"], Writer(output), Form(8, 1, "skip"))
    assert read(output)[0] == [1]
    assert [reason for _, reason in summary.skipped] == [
        f"{kind}, not a file" for kind in ("a link", "a hard link", "a device", "a device", "a named pipe", "a sparse file")]


def test_archives_without_images_are_named(tmp_path, output, assert_nothing_written):
    for files, message in (([], "holds no images; files in it: nothing"),
                           ([("a.txt", b"x")], "holds no images; files in it: .txt")):
        with pytest.raises(UserError, match=message):
            import_webdataset([tar(tmp_path / "a.tar", files)], Writer(output), FORM)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no .tar or .tar.gz file"):
        import_webdataset([tmp_path / "empty"], Writer(output), FORM)
    assert_nothing_written()
