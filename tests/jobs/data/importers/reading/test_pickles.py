"""Pickles of plain data and arrays, which anybody may have made."""

import os
import pickle

import numpy as np
import pytest
from cifar_archives import python2_pickle
from hypothesis import given, settings
from hypothesis import strategies as st
from made_images import noise

from jobs.data.importers.reading import pickles
from jobs.data.importers.reading.pickles import read_pickle

PLAIN = st.recursive(st.integers(-2 ** 40, 2 ** 40) | st.booleans() | st.none() | st.text(max_size=9) | st.binary(max_size=9),
                     lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
                     | st.tuples(inner, inner), max_leaves=9)


@settings(deadline=None, max_examples=60)
@given(PLAIN, st.sampled_from([3, 4, 5]))
def test_plain_data_come_back(value, protocol):
    assert read_pickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("array", [noise(3, 4), noise(2, 3, 4), noise(5), noise(0, 7), np.asfortranarray(noise(3, 4))])
def test_arrays_come_back(array):
    for content in (pickle.dumps({"a": array}, 4), python2_pickle({"a": array})):
        found = list(read_pickle(content).values())[0]
        np.testing.assert_array_equal(found.as_bytes(), array)
        assert str(found) == f"uint8 {list(array.shape)}"


def test_arrays_of_other_types_are_described_and_not_made():
    found = read_pickle(pickle.dumps([np.zeros((2, 3), np.float32), np.zeros(3, "<M8[s]")], 4))
    assert [str(each) for each in found] == ["float32 [2, 3]", "M8 [3]"]
    assert [each.as_bytes() for each in found] == [None] * 2


def array_with(**changes):
    """A pickle of an array whose state is wrong in one place."""
    state = {"version": 1, "shape": (2, 3), "dtype": np.dtype("u1"), "fortran": False, "content": bytes(6), **changes}

    class Wrong:
        def __reduce__(self):
            return np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), tuple(state.values())
    return pickle.dumps(Wrong(), 4)


def test_an_array_has_the_values_of_its_shape():
    assert read_pickle(array_with()).as_bytes().tolist() == [[0] * 3] * 2
    for shape in ((2, 4), (1 << 62, 1 << 62), (0,), (1 << 40, 0)):
        assert read_pickle(array_with(shape=shape)).as_bytes() is None
    for changes in ({"shape": [2, 3]}, {"shape": (2, -3)}, {"shape": (2, 3.0)}, {"shape": (1,) * 33}, {"dtype": "u1"},
                    {"content": [0] * 6}, {"extra": 1}):
        with pytest.raises((pickle.UnpicklingError, ValueError), match="without shape, type or values|too many values"):
            read_pickle(array_with(**changes))


class Malice:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("content, message", [
    (pickle.dumps(Malice(os.mkdir, ("trap",)), 4), "it asks for posix.mkdir"),
    (pickle.dumps(Malice(getattr, (1, "real")), 4), "it asks for builtins.getattr"),
    (pickle.dumps({1: 2}, 4), "it has a key that is no text"),
    (pickle.dumps({1, 2}, 4), "it has the opcode"),
    (pickle.dumps("old", 0), "it has the opcode"),
    (b"\x80\x02\x82\x01.", "it has the opcode"),  # of the extension registry
    (b"\x80\x04]" + b"]0" * 10 + b".", "it has the opcode b'0'"),
])
def test_what_no_image_data_need(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match=message):
        read_pickle(content)
    assert not os.path.exists("trap")


def test_a_pickle_cannot_take_for_ever_or_all_memory(monkeypatch):
    doubled = b")" + b"q\x00h\x00\x86" * 60  # a tuple that holds one twice, which holds one twice ...: hashing visits 2 ** 60
    with pytest.raises(pickle.UnpicklingError, match="it has a key that is no text"):
        read_pickle(b"\x80\x02}" + doubled + b"K\x01s.")
    assert read_pickle(b"\x80\x02]r\xff\xff\xff\x7f.") == []  # the C unpickler would make a table of 2 ** 31 places
    monkeypatch.setattr(pickles, "_MOST_READS", 100)
    with pytest.raises(pickle.UnpicklingError, match="it has more than 100 parts"):
        read_pickle(b"\x80\x02" + b"]" * 200 + b".")


def test_a_pickle_cannot_give_attributes_to_what_is_read():
    for start in (b"}", b"]", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n"):
        with pytest.raises((AttributeError, TypeError)):
            read_pickle(b"\x80\x02" + start + b"}U\x03getK\x01sb.")
