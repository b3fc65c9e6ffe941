"""Layouts, types, filters and labels of other programs are read right or refused."""

import subprocess
import sys
import zlib

import h5py
import numpy as np
import pytest
from made_hdf5 import IMAGES, LABELS, is_right, made, refused

from jobs.data.dataset import open_data
from jobs.errors import UserError


def test_raw_files_are_read_right_where_they_are_whole(here):
    (here / "raw").write_bytes(b"skip" + IMAGES[:7].tobytes())
    (here / "raw2").write_bytes(IMAGES[7:].tobytes())
    external = [("raw", 4, 7 * 16), ("raw2", 0, h5py.h5f.UNLIMITED)]
    name = made("raw.h5", lambda file: file.create_dataset("images", IMAGES.shape, np.uint8, external=external))
    (here / "raw").write_bytes(b"skip" + IMAGES[:7].tobytes())
    (here / "raw2").write_bytes(IMAGES[7:].tobytes())
    assert {stamp.path for stamp in is_right(name).stamps} == {str(here / name) for name in ("raw.h5", "raw", "raw2")}
    (here / "raw2").write_bytes(IMAGES[7:].tobytes()[:-1])
    refused(name, r"/images lies in raw files \(raw, raw2\), which hold 191 of its 192 bytes")
    (here / "raw").write_bytes(b"skip" + IMAGES[:7].tobytes()[:-1])
    refused(name, "/images lies in the raw file raw, which is too short")
    (here / "raw2").unlink()
    (here / "raw").write_bytes(b"skip" + IMAGES[:7].tobytes())
    refused(name, "/images lies in the raw file .*raw2, which is missing")


@pytest.mark.parametrize("shape, storage, message", [
    ((10 ** 10, 4, 4, 1), {"chunks": (1, 4, 4, 1)}, "10000000000 of its 10000000000 chunks were never written"),
    ((2 ** 60, 4, 4, 1), {"chunks": (1000, 4, 4, 1)}, "chunks were never written"),
    ((10 ** 10, 4, 4, 1), {}, "but was never written"),
    ((12, 4, 4, 1), {"chunks": (5, 4, 4, 1)}, "3 of its 3 chunks were never written"),
    ((12, 4, 4, 1), {"chunks": (5, 4, 4, 1), "compression": "gzip"}, "3 of its 3 chunks were never written"),
])
def test_shapes_with_nothing_stored_are_refused_at_once(here, shape, storage, message):
    refused(made("rows.h5", lambda file: file.create_dataset("images", shape, np.uint8, **storage)), message)


def test_some_chunks_that_were_never_written(here):
    def write(file):
        file.create_dataset("images", IMAGES.shape, np.uint8, chunks=(5, 4, 4, 1))[:8] = IMAGES[:8]
    refused(made("some.h5", write), "1 of its 3 chunks were never written; HDF5 would give zeros")


def test_room_in_the_file_that_was_never_filled(here):
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)

    def write(file):
        file.create_dataset("images", (10 ** 9, 4, 4, 1), np.uint8, dcpl=early)
    refused(made("hole.h5", write), "14.9 GiB of its 14.9 GiB were never written")


def test_compact_and_empty_and_resized_layouts(here):
    compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    compact.set_layout(h5py.h5d.COMPACT)

    def write(file):
        file.create_dataset("images", IMAGES.shape, np.uint8, dcpl=compact)[:] = IMAGES
    is_right(made("compact.h5", write))
    longer = {"chunks": (100, 4, 4, 1), "maxshape": (None, 4, 4, 1)}
    is_right(made("wide.h5", lambda file: file.create_dataset("images", data=IMAGES, **longer)))
    refused(made("null.h5", lambda file: file.create_dataset("images", data=h5py.Empty("u1"))), "it must be uint8 .N, H, W, C.")
    refused(made("scalar.h5", lambda file: file.create_dataset("images", data=np.uint8(3))), "it must be uint8 .N, H, W, C.")


def test_types_that_are_uint8_under_another_name(here):
    def named(file):
        file["type"] = np.dtype(np.uint8)
        file.create_dataset("images", data=IMAGES, dtype=file["type"])
    is_right(made("named.h5", named))
    is_right(made("enum.h5", lambda file: file.create_dataset("images", data=IMAGES, dtype=h5py.enum_dtype({"a": 1}, "u1"))))


def test_bits_that_hdf5_converts_are_not_mapped(here):
    kind = h5py.h5t.NATIVE_UINT8.copy()
    kind.set_precision(4)
    kind.set_offset(4)

    def write(file):
        space = h5py.h5s.create_simple(IMAGES.shape)
        h5py.h5d.create(file.id, b"images", kind, space).write(h5py.h5s.ALL, h5py.h5s.ALL, IMAGES // 16)
    name = made("bits.h5", write)
    np.testing.assert_array_equal(open_data(name, 4, 1).images, IMAGES // 16)


@pytest.mark.parametrize("dtype", ["i1", ">u2", "f2", "?", "S1", "V1", "c8", [("r\x1b", "u1"), ("g", "u1")], h5py.ref_dtype,
                                   h5py.regionref_dtype, h5py.string_dtype(), h5py.vlen_dtype("u1")])
def test_other_types_are_refused_with_a_sentence(here, dtype):
    def write(file):
        file.create_dataset("images", (0, 4, 4, 1), np.dtype(dtype) if isinstance(dtype, list) else dtype)
    with pytest.raises(UserError) as caught:
        open_data(made("types.h5", write), 4, 1)
    assert "it must be uint8" in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize("code", [h5py.h5t.STD_B8LE, h5py.h5t.UNIX_D32LE])
def test_types_that_numpy_lacks_are_refused(here, code):
    def write(file):
        h5py.h5d.create(file.id, b"images", code, h5py.h5s.create_simple(IMAGES.shape))
    refused(made("types.h5", write), "/images cannot be opened|never written")


def test_a_named_type_in_the_place_of_images(here):
    refused(made("type.h5", lambda file: file.__setitem__("images", np.dtype("u1"))), "/images is a type; a dataset")


def test_a_filter_that_is_not_installed_is_named(here):
    name = made("packed.h5", lambda file: file.create_dataset("images", data=IMAGES, compression="gzip", chunks=IMAGES.shape))
    content = (here / name).read_bytes()
    # HDF5 writes filter number 1 (deflate) in two bytes, then the length of its name, two flags, one value.
    place = content.index(b"\x01\x00\x08\x00\x01\x00\x01\x00deflate")
    (here / name).write_bytes(content[:place] + (32001).to_bytes(2, "little") + content[place + 2:])
    refused(name, r"/images is packed with the filter deflate \(32001\), which this HDF5 does not have")


def test_few_bytes_that_unpack_to_much_are_refused(here):
    def write(file):
        found = file.create_dataset("images", (1_000_000, 64, 64, 1), np.uint8, chunks=(250_000, 64, 64, 1), compression="gzip")
        packed = zlib.compress(bytes(1 << 20))
        for row in range(0, 1_000_000, 250_000):
            found.id.write_direct_chunk((row, 0, 0, 0), packed)
    refused(made("bomb.h5", write), r"/images unpacks from .* KiB to 3.81 GiB, which images do not")


@pytest.mark.parametrize("labels, message", [
    (np.array([2 ** 64 - 1] * 12, np.uint64), "/labels has the label 18446744073709551615"),
    (np.full(12, np.nan), "/labels is float64"),
    (LABELS.astype("S2"), r"/labels is \|S2"),
    (LABELS[:11], "11 labels for 12 images"),
    (np.int64(3), "/labels is int64 with shape"),
])
def test_labels_that_do_not_fit(here, labels, message):
    def write(file):
        file["images"], file["labels"] = IMAGES, labels
    with pytest.raises(UserError, match=message):
        open_data(made("labels.h5", write), 4, 1, 3)


def test_big_endian_labels_are_read_right(here):
    def write(file):
        file["images"], file["labels"] = IMAGES, LABELS.astype(">i8")
    is_right(made("labels.h5", write))


def test_names_of_members_are_shown_short_and_without_control_characters(here):
    def write(file):
        file["\x1b[31mred"] = 1
        file["x" * 5000] = 1
        for number in range(200):
            file[f"member {number}"] = 1
    with pytest.raises(UserError, match=r"has no /images; it holds: \\x1b\[31mred") as caught:
        open_data(made("names.h5", write), 4, 1)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


@pytest.mark.slow
def test_bytes_damaged_anywhere_give_images_or_a_sentence(here):
    """In a process of its own, since HDF5 may end it: that is a fault of HDF5, of which this test counts none."""
    made("whole.h5", lambda file: file.create_dataset("images", data=IMAGES, compression="gzip", chunks=(4, 4, 4, 1)))
    code = """
import sys
from pathlib import Path
from jobs.data.dataset import open_data
from jobs.data.sources import open_images
from jobs.errors import UserError
whole = Path("whole.h5").read_bytes()
for place in range(int(sys.argv[1]), len(whole), 41):
    Path("cut.h5").write_bytes(whole[:place] + bytes([whole[place] ^ 0xff]) + whole[place + 1:])
    for opening in (lambda: open_data("cut.h5", 4, 1, 3), lambda: open_images("cut.h5").images[0:12]):
        try: opening()
        except UserError as error: assert str(error).isprintable(), error
"""
    for start in (0, 17):
        done = subprocess.run([sys.executable, "-c", code, str(start)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
