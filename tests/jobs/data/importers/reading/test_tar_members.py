"""Tar archives that anybody may have made."""

import bz2
import gzip
import io
import lzma
import os
import tarfile

import numpy as np
import pytest
from made_archives import file_in_tar, member

from jobs.data.importers.reading import tar_members
from jobs.data.importers.reading.tar_members import members, open_tar
from jobs.errors import UserError
from jobs.storage import datasets

NAMES = ["a.png", "folder/" * 20 + "b.png", "é" * 40 + ".png", "x" * 300 + ".png", "ü" * 200 + "/y.png"]
SIZES = [0, 1, 511, 512, 513]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.tar"


def read(path):
    with open_tar(path) as found:
        return [(one.name, one.problem or one.read()) for one in found]


def archive(form):
    """An archive by Python's tarfile, with a folder, and what it holds."""
    stream = io.BytesIO()
    contents = {name: np.random.default_rng(size).bytes(size) for name, size in zip(NAMES, SIZES, strict=True)}
    if form == tarfile.USTAR_FORMAT:
        contents = dict(list(contents.items())[:3])
    with tarfile.open(fileobj=stream, mode="w", format=form) as file:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
    return stream.getvalue(), list(contents.items())


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_packed_and_plain(path, form):
    content, held = archive(form)
    for packed in (content, gzip.compress(content), bz2.compress(content), lzma.compress(content)):
        path.write_bytes(packed)
        assert read(path) == held


def test_archives_that_were_joined_and_one_without_an_end(path):
    first, second = file_in_tar("a", b"1") + bytes(1024), file_in_tar("b", b"2")
    path.write_bytes(first + second)
    assert read(path) == [("a", b"1"), ("b", b"2")]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_damaged_archive_is_one_sentence(path, form):
    """Nothing but UserError for archives that are cut, or have wrong bytes, also behind a right checksum."""
    content, held = archive(form)
    random, refused = np.random.default_rng(0), 0
    for case in range(150):
        damaged = bytearray(content)
        if case % 3 == 0:
            damaged = damaged[:random.integers(len(damaged))]
        for place in random.integers(len(damaged), size=2 if len(damaged) else 0):
            damaged[place] = random.integers(256)
        for block in range(0, len(damaged) - 511, 512):
            if damaged[block + 257:block + 262] == b"ustar" and case % 2:
                damaged[block + 148:block + 156] = b"        "
                damaged[block + 148:block + 156] = b"%06o\0 " % sum(damaged[block:block + 512])
        path.write_bytes(damaged)
        try:
            read(path)
        except UserError as error:
            refused += 1
            assert str(error).startswith(f"{path}: not a whole tar archive (")
    assert refused > 40


def test_members_may_be_skipped(path):
    path.write_bytes(file_in_tar("a", bytes(3 << 20)) + file_in_tar("b", b"2") + bytes(1024))
    with open_tar(path) as found:
        assert [one.name for one in found] == ["a", "b"]
    path.write_bytes(member("a", 3 << 20) + bytes(2 << 20))
    with pytest.raises(UserError, match="it ends in the middle of a file"), open_tar(path) as found:
        list(found)


def test_an_archive_in_an_archive(path):
    inner = file_in_tar("a", b"1") + file_in_tar("b", b"2") + bytes(1024)
    path.write_bytes(file_in_tar("inner.tar", inner) + file_in_tar("c", b"3"))
    with open_tar(path) as found:
        first = next(found)
        assert [(one.name, one.read()) for one in members(first)] == [("a", b"1"), ("b", b"2")]
        assert next(found).read() == b"3"
    path.write_bytes(file_in_tar("inner.tar", inner[:700]) + file_in_tar("c", b"3"))
    with pytest.raises(UserError, match="it ends in the middle of a file"), open_tar(path) as found:
        list(members(next(found)))


def checked(header, place, content):
    """The header with other content at `place`, and the checksum of that."""
    header = header[:place] + content + header[place + len(content):]
    return header[:148] + b"%06o\0 " % sum(header[:148] + b" " * 8 + header[156:]) + header[156:]


def test_sparse_files_of_either_kind(path):
    """GNU's old form has further headers behind the first; the newer one is a pax header before a plain file."""
    old = checked(member("old", 3, b"S"), 482, b"\1") + bytes(504) + b"\1" + bytes(7) + bytes(512) + b"abc" + bytes(509)
    newer = file_in_tar("x", b"22 GNU.sparse.major=1\n25 GNU.sparse.name=newer\n", type=b"x") + file_in_tar("y", b"abc")
    path.write_bytes(old + newer + file_in_tar("last", b"1"))
    assert read(path) == [("old", "a sparse file, not a file"), ("newer", "a sparse file, not a file"), ("last", b"1")]


@pytest.mark.parametrize("start, size, message", [
    (member("x", 4 << 30, b"x"), 4 << 30, "an extended header of 4,294,967,296 bytes"),
    (member("x", 4 << 30, b"L"), 4 << 30, "a long name or an extended header of 4,294,967,296 bytes"),
    (member("x", 1 << 62), 0, "x has 4,611,686,018,427,387,904 bytes"),
    (member("x", 1 << 20), 0, "it ends in the middle of a file"),
    (member("x", 1 << 40, b"S"), 0, "it ends in the middle of a file"),
    (b"", 0, "it is empty"),
    (b"", 3 << 20, "more than 2 MiB of zeros between its members"),
    (file_in_tar("x", b"7 size\n", type=b"x"), 0, "a damaged extended header"),
    (file_in_tar("x", b"99 path=a\n", type=b"x"), 0, "a damaged extended header"),
    (file_in_tar("x", b"12 size=-1\n\n", type=b"x") + member("y", 1), 0, "a damaged extended header"),
    (checked(member("x", 1), 124, b"\xff" * 12), 0, "a member has a negative size"),
    (b"PK" + bytes(510), 0, "it does not begin as one")], ids=range(12))
def test_an_archive_that_claims_too_much(path, start, size, message, monkeypatch):
    monkeypatch.setattr(tar_members, "_MOST_PADDING", 2 << 20)
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(len(start) + size)  # sparse: the test writes little
    with pytest.raises(UserError, match=message):
        read(path)


def test_what_a_pack_unpacks_to_is_bounded(path, monkeypatch):
    monkeypatch.setattr(datasets, "_SMALL", 1 << 20)
    path.write_bytes(gzip.compress(member("x.png", 20 << 20) + bytes(20 << 20)))
    with pytest.raises(UserError, match=r"it unpacks from \S+ [KM]iB to \d+ MiB, which images do not"), open_tar(path) as found:
        list(found)


def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("nowhere.tar", "no such file"), ("", "a folder, not a tar archive"), ("pipe", "not a regular file")):
        with pytest.raises(UserError, match=message), open_tar(tmp_path / name):
            pass
