"""Damaged files end a child process, and not ours."""

import os
import re
import signal

import numpy as np
import pytest
from made_archives import database, encoded

from jobs.data.importers.encoded import Form, Record
from jobs.data.importers.lsun import import_lsun
from jobs.data.importers.reading.child import ChildReader, Opened
from jobs.data.importers.writer import Writer
from jobs.errors import UserError


def yields(arguments):
    """In the child: facts, a file, two records, and then what the test asks for."""
    yield {"total": 2}
    yield Opened("file.mdb")
    yield Record("first", b"\n{}\n\0", 3)
    yield Record("second\ud800", b"not sent", "ant", "broken")
    yield Record("third", b"not sent", "x" * 1001)
    if arguments["end"] == "signal":
        os.kill(os.getpid(), signal.SIGBUS)
    if arguments["end"] == "error":
        raise UserError("file.mdb: damaged")
    if arguments["end"] == "bug":
        raise LookupError("\x1b[31m17")
    if arguments["end"] == "long":
        yield {"names": "x" * (64 << 20)}
    if arguments["end"] == "silence":
        os._exit(3)


def child(end):
    return ChildReader("test_child", "yields", {"end": end}, "source")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))


def test_records_come_as_they_were_sent():
    with child("well") as reader:
        assert reader.facts == {"total": 2}
        assert list(reader.records()) == [Record("first", b"\n{}\n\0", 3), Record("second\ud800", b"", "ant", "broken"),
                                          Record("third", b"", None, "a class whose name has 1,001 characters")]


@pytest.mark.parametrize("end, message", [
    ("signal", "file.mdb: damaged; reading ended with SIGBUS after 3 images"), ("error", "file.mdb: damaged"),
    ("bug", r"file.mdb: cannot be read (LookupError: \x1b[31m17) after 3 images"),
    ("long", "file.mdb: names of more than 64 MiB"),
    ("silence", "file.mdb: cannot be read (status 3) after 3 images")])
def test_the_end_of_a_child_is_one_sentence(end, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"), child(end) as reader:
        list(reader.records())


def test_a_child_ends_with_its_reader():
    with child("well") as reader:
        next(reader.records())
    assert reader._process.returncode is not None


def test_damaged_databases(tmp_path, output, assert_nothing_written):
    """Of a database that is cut, or has pages of noise, nothing is written, and this process lives."""
    source = database(tmp_path / "tower_train_lmdb", {f"{number:04}": encoded(kind="bmp") for number in range(200)})
    file, random = source / "data.mdb", np.random.default_rng(0)
    content = file.read_bytes()
    pages = [content[page:page + 4096] for page in range(0, len(content), 4096)]
    noise = [random.bytes(4096) if number >= 2 else page for number, page in enumerate(pages)]
    for damaged in (content[:5000], content[:len(content) // 2], b"".join(noise), bytes(len(content)), b"notes"):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"^{source}: (not an LMDB database, or a damaged one|damaged)"):
            import_lsun(source, Writer(output), Form(8, 1), "train")
    assert_nothing_written()


def test_entries_out_of_order_or_too_few(tmp_path, output, assert_nothing_written):
    source = database(tmp_path / "tower_train_lmdb", {f"key {number}": encoded() for number in range(5)})
    file = source / "data.mdb"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"key 1", b"key 9"))
    with pytest.raises(UserError, match="damaged: its keys are not in order after 2 entries"):
        import_lsun(source, Writer(output), Form(8, 1), "train")
    more = bytearray(content)
    for meta in (0, 4096):  # the number of entries in each of the two pages that describe the file
        assert more[meta + 120] in (0, 5)
        more[meta + 120] = 6
    file.write_bytes(more)
    with pytest.raises(UserError, match="damaged: it has 5 of 6 entries"):
        import_lsun(source, Writer(output), Form(8, 1), "train")
    assert_nothing_written()
