"""HDF5 files: laid out by HDF5, filled by Python, sealed, and read back."""

import errno
import json
import math
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jobs.storage.hdf5
from jobs.storage.hdf5 import Layout, fill, lay_out
from jobs.storage.sealed import SameLayoutReader, as_bytes, open_sealed

RNG = np.random.default_rng(0)


@given(rows=st.integers(1, 40), rows_per_chunk=st.none() | st.integers(1, 50),
       shape=st.lists(st.integers(1, 5), max_size=3), dtype=st.sampled_from(["u1", "<i8", "<f4"]))
@settings(max_examples=60, deadline=None)
def test_arrays_written_to_the_offsets_of_the_layout_are_read_back(tmp_path_factory, rows, rows_per_chunk, shape, dtype):
    path = tmp_path_factory.mktemp("layout") / "a.h5"
    array = RNG.integers(0, 200, (rows, *shape)).astype(dtype)
    other = np.arange(rows, dtype="<i8")
    layouts = {"a": Layout(array.shape, dtype, rows_per_chunk), "other": Layout((rows,), "<i8")}
    offsets = lay_out(path, layouts, {"n": 3, "é": "ü\n"})

    step = min(rows_per_chunk or rows, rows)
    assert [len(offsets["a"]), len(offsets["other"])] == [math.ceil(rows / step), 1]
    with open(path, "r+b") as file:
        for number, offset in enumerate(offsets["a"]):
            file.seek(offset)
            file.write(array[number * step:(number + 1) * step].tobytes())
        file.seek(offsets["other"][0])
        file.write(other.tobytes())
    with h5py.File(path, "r") as file:
        np.testing.assert_array_equal(file["a"][()], array)
        np.testing.assert_array_equal(file["other"][()], other)
        assert file["a"].dtype == dtype
        assert file["a"].chunks == (None if rows_per_chunk is None else (step, *shape))
        assert dict(file.attrs) == {"n": 3, "é": "ü\n"}


LIMITED = """
import os, resource, sys
from pathlib import Path
import jobs.storage.hdf5
from jobs.storage.hdf5 import Layout, lay_out

path, rows, rows_per_chunk, side = Path(sys.argv[1]), *map(int, sys.argv[2:])
layouts = {"images": Layout((rows, side, side, 1), "u1", rows_per_chunk), "labels": Layout((rows,), "<i8")}

def trial(limit):  # exit status of a process whose files may have at most `limit` bytes
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        lay_out(path, layouts, {"spec": "x" * 4000})
    except OSError:
        sys.exit(7)
    sys.exit(0)

lay_out(path, layouts, {"spec": "x" * 4000})
size = path.stat().st_size
print([trial(limit) for limit in (0, 1, 4096, size // 3, size // 2, size - 1, 2 * size + 70_000)])
"""


@pytest.mark.parametrize("rows, rows_per_chunk, side", [(3000, 1, 1), (70, 1, 2), (900, 500, 32)])
def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(tmp_path, rows, rows_per_chunk, side):
    # A limit on file sizes fails as a full disk does. HDF5 itself would end such a process with a segmentation fault,
    # at the latest when it exits. Status 7 means that `lay_out` noticed before HDF5 wrote anything.
    arguments = [str(tmp_path / "a.h5"), str(rows), str(rows_per_chunk), str(side)]
    done = subprocess.run([sys.executable, "-c", LIMITED, *arguments], capture_output=True, text=True)
    assert (done.stderr, json.loads(done.stdout)) == ("", [7, 7, 7, 7, 7, 7, 0])


@given(values=st.lists(st.integers(0, 255), min_size=1, max_size=50),
       text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
@settings(max_examples=30, deadline=None)
def test_a_file_made_in_memory_holds_what_was_given(tmp_path_factory, values, text):
    path = tmp_path_factory.mktemp("bytes") / "a.h5"
    path.write_bytes(as_bytes({"images": np.array(values, np.uint8), "labels": np.array(values)}, {"text": text}))
    with h5py.File(path, "r") as file:
        assert file["images"][:].tolist() == file["labels"][:].tolist() == values
        assert (file["images"].dtype, file["labels"].dtype, file.attrs["text"]) == (np.uint8, np.int64, text)


@pytest.fixture
def filled(tmp_path):
    """A sealed file of seven rows in pieces of three, and its rows."""
    rows = RNG.integers(0, 200, (7, 4)).astype("u1")
    path = tmp_path / "filled.h5"
    offsets = lay_out(path, {"a": Layout(rows.shape, "u1", 3), "b": Layout((7,), "<i8")}, {"n": 3}, sealed=True)
    pieces = [*zip(offsets["a"], np.split(rows, [3, 6]), strict=True), (offsets["b"][0], np.arange(7))]
    fill(path, sorted(pieces, key=lambda piece: piece[0]), offsets)
    return path, rows


def test_a_filled_file_is_sealed_as_a_whole(filled):
    path, rows = filled
    with open_sealed(path) as file:
        assert np.array_equal(file["a"][:], rows) and file["b"][:].tolist() == list(range(7)) and file.attrs["n"] == 3
    content = path.read_bytes()
    for position in {*range(0, len(content), 97), len(content) - 1}:
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(OSError, match="damaged"):
            open_sealed(path)
    for cut in (0, 10, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(OSError, match="damaged"):
            open_sealed(path)


def test_pieces_out_of_order_are_refused(filled):
    with pytest.raises(ValueError, match="lies before"):
        fill(filled[0], [(600, np.zeros(8, "u1")), (604, np.zeros(8, "u1"))], {"a": [600]})


def test_an_error_of_the_disk_while_writing_is_not_lost(tmp_path, monkeypatch):
    flushed = []

    def flush(descriptor):
        flushed.append(os.fstat(descriptor).st_size)
        if len(flushed) == 2:
            raise OSError(errno.EIO, "Input/output error")
    monkeypatch.setattr(jobs.storage.hdf5, "FLUSH_EVERY", 100)
    monkeypatch.setattr(os, "fdatasync", flush)
    array = np.zeros((100, 10), "u1")
    [offset] = lay_out(tmp_path / "a.h5", {"a": Layout(array.shape, "u1")}, {}, sealed=True)["a"]
    with pytest.raises(OSError, match="Input/output"):
        fill(tmp_path / "a.h5", [(offset + 10 * row, line) for row, line in enumerate(array)], {"a": [offset]})
    assert len(flushed) >= 10


def test_files_that_differ_only_in_values_are_parsed_once(tmp_path, monkeypatch):
    opened, h5py_file = [], h5py.File
    monkeypatch.setattr(h5py, "File",
                        lambda *arguments, **options: opened.append(arguments) or h5py_file(*arguments, **options))
    contents = [({"x": np.arange(5) + number, "y": np.full(3, number, "u1")}, {"n": 1}) for number in range(3)]
    contents += [({"x": np.arange(4)}, {"n": 1}), ({"x": np.arange(5), "y": np.ones(3, "u1")}, {"n": 2})]
    written = [as_bytes(*content) for content in contents]
    opened.clear()
    files = SameLayoutReader("x", "y", "absent")
    for number, (content, (arrays, attributes)) in enumerate(zip(written, contents, strict=True)):
        (tmp_path / "a.h5").write_bytes(content)
        found, its_attributes = files.read(tmp_path / "a.h5")
        assert found.keys() == arrays.keys() and its_attributes == attributes
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype and found[name].tolist() == array.tolist()
        assert len(opened) == max(1, number - 1)  # the first file, and the two with another layout or other attributes
        damaged = bytearray(content)
        damaged[len(content) // 2] ^= 1
        (tmp_path / "a.h5").write_bytes(damaged)
        with pytest.raises(OSError, match="damaged"):
            files.read(tmp_path / "a.h5")
    for cut in (0, 10, len(content) - 1):
        (tmp_path / "a.h5").write_bytes(content[:cut])
        with pytest.raises(OSError, match="damaged"):
            files.read(tmp_path / "a.h5")


def program(path, code):
    """What another program does to the file `path`, which it opens as `file`."""
    subprocess.run([sys.executable, "-c", f"import h5py, sys\nwith h5py.File(sys.argv[1], 'r+') as file:\n    {code}", str(path)],
                   check=True)


@pytest.mark.slow
def test_a_file_that_was_opened_to_write_and_closed_is_as_it_was(filled, tmp_path):
    path, _ = filled
    whole = path.read_bytes()
    program(path, "pass")
    assert path.read_bytes() == whole
    open_sealed(path).close()
    content = as_bytes({"x": np.arange(5)}, {"n": 1})
    (tmp_path / "small.h5").write_bytes(content)
    program(tmp_path / "small.h5", "pass")
    assert SameLayoutReader("x").read(tmp_path / "small.h5")[0]["x"].tolist() == list(range(5))


@pytest.mark.slow
@pytest.mark.parametrize("code", ["file.attrs['seen'] = 1", "file['mine'] = list(range(1000))", "del file.attrs['n']",
                                  "file['a'][0] = file['a'][0]; file.attrs['x'] = 1",
                                  "old = file['b'][:]; del file['b']; file['b'] = old"])
def test_what_another_program_adds_does_no_harm_to_what_was_sealed(filled, code):
    path, rows = filled
    program(path, code)
    told = []
    with open_sealed(path, told.append) as file:
        assert np.array_equal(file["a"][:], rows) and file["b"][:].tolist() == list(range(7))
    assert told == [f"{path}: another program wrote to this file; a, b are still as they were made"]
    with pytest.raises(OSError, match="damaged"):
        open_sealed(path)


@pytest.mark.slow
@pytest.mark.parametrize("code", ["file['a'][3, 1] += 1", "file['b'][6] = 0", "del file['b']",
                                  "del file['a']; file.create_group('a')",
                                  "del file['b']; file['b'] = list(range(6))"])
def test_what_another_program_changes_is_damage(filled, code):
    path, _ = filled
    program(path, code)
    with pytest.raises(OSError, match="damaged"):
        open_sealed(path, lambda text: pytest.fail(text))


@pytest.mark.slow
def test_a_damaged_file_is_not_read_by_hdf5_in_this_process(filled):
    """HDF5 may end the process that reads it; values that are whole may still be used."""
    path, rows = filled
    content = path.read_bytes()
    for position in range(0, len(content), 401):
        damaged = bytearray(content)
        damaged[position] ^= 0xff
        path.write_bytes(damaged)
        told = []
        try:
            with open_sealed(path, told.append) as file:
                assert np.array_equal(file["a"][:], rows) and file["b"][:].tolist() == list(range(7)) and told
        except OSError as error:
            assert "damaged" in str(error) and not told
