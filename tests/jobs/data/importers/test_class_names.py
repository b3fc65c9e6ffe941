"""Files of class names."""

import os

import numpy as np
import pytest

from jobs.data.importers.class_names import read_class_names
from jobs.errors import UserError


@pytest.mark.parametrize("text, names, first", [
    ("cat\n  grey  wolf \n\n", ["cat", "grey wolf"], None),
    ("\ufeffcat\r\ndog", ["cat", "dog"], None),
    ("n02119789 1 kit_fox\nn02085620 3 Chihuahua\nn02100735 2 English_setter\n", ["kit_fox", "English_setter", "Chihuahua"], 1),
    ("0 48\n1 65 97\n2 66 66\n", ["0", "Aa", "B"], 0),
    ("1 65 97\n", ["Aa"], 1),
])
def test_three_forms(tmp_path, text, names, first):
    (tmp_path / "a.txt").write_text(text)
    found = read_class_names(tmp_path / "a.txt")
    assert (found.names, found.first) == (names, first)
    found.check(np.array([len(names) - 1]), "a.npz")
    with pytest.raises(UserError, match=f"names {len(names)} of the classes, but there is a class number {len(names) + 1}"):
        found.check(np.array([0, len(names)]), "a.npz")
    with pytest.raises(UserError, match="a.npz: has no labels, so there are no classes for the names in .*a.txt"):
        found.check(None, "a.npz")


@pytest.mark.parametrize("content, message", [
    (b"", "names no class; it needs one name a line, or lines like"),
    (b"\xff\xfe\0", "not a text file in UTF-8"),
    (b"cat\ndog\ncat", "names cat twice"),
    (b"n01440764 tench, Tinca tinca\nn01443537 goldfish", "line 1 is n01440764 tench, Tinca tinca, without the number"),
    (b"0 48\n0 49", "its 2 numbers of classes must each be there once, from 0 or 1 without a gap"),
    (b"0 48\n2 49", "its 2 numbers of classes must each be there once"),
    (b"2 48\n3 49", "its 2 numbers of classes must each be there once"),
])
def test_files_that_do_not_fit_are_named(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"a.txt: {message}"):
        read_class_names(tmp_path / "a.txt")


def test_what_is_no_file_of_text(tmp_path):
    with pytest.raises(UserError, match="a.txt: no such file; class names need one name a line"):
        read_class_names(tmp_path / "a.txt")
    with pytest.raises(UserError, match="not a regular file"):
        read_class_names(tmp_path)
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 1 << 40)
    with pytest.raises(UserError, match="more than 4 MiB"):
        read_class_names(tmp_path / "large")
