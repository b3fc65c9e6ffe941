"""Datasets of other programs are read right, or refused before HDF5 gives zeros for what is missing."""

import os
import resource
import subprocess
import sys
import time
import zlib

import h5py
import numpy as np
import pytest

from jobs.data.dataset import open_data
from jobs.data.sources import open_images
from jobs.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(1, 256, (12, 4, 4, 1), dtype=np.uint8)
LABELS = np.arange(12) % 3


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with real.h5, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    with h5py.File("real.h5", "w") as file:
        file["images"], file["labels"] = IMAGES, LABELS
    return tmp_path


def made(name, write):
    with h5py.File(name, "w") as file:
        file["padding"] = np.full(5000, 7, np.uint8)
        write(file)
        if "labels" not in list(file):
            file["labels"] = LABELS
    return name


def refused(name, message):
    with pytest.raises(UserError, match=message) as caught:
        open_data(name, 4, 1)
    assert str(caught.value).startswith(f"{name}: ") and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=message):
        open_images(name).images[0:12]


def is_right(name):
    data = open_data(name, 4, 1, 3)
    np.testing.assert_array_equal(data.images, IMAGES)
    np.testing.assert_array_equal(data.labels, LABELS)
    np.testing.assert_array_equal(open_images(name).images[0:12], IMAGES)
    return data


def virtual(file, *sources, shape=IMAGES.shape, fillvalue=0):
    """Stitch (rows, file, dataset, shape) together."""
    layout = h5py.VirtualLayout(shape, np.uint8)
    for rows, name, dataset, its_shape in sources:
        layout[rows] = h5py.VirtualSource(name, dataset, its_shape)
    file.create_virtual_dataset("images", layout, fillvalue=fillvalue)


@pytest.mark.parametrize("target", ["real.h5", "sub/real.h5", "packed.h5"])
def test_a_link_into_another_file_gives_that_files_bytes(here, target):
    (here / "sub").mkdir()
    for name in ("sub/real.h5", "packed.h5"):
        with h5py.File(name, "w", userblock_size=512) as file:
            file["before"] = np.arange(100)
            file.create_dataset("images", data=IMAGES, compression="gzip" if name == "packed.h5" else None)
    data = is_right(made("link.h5", lambda file: file.__setitem__("images", h5py.ExternalLink(target, "/images"))))
    assert {stamp.path for stamp in data.stamps} == {str(here / target), str(here / "link.h5")}


def test_links_within_the_file(here):
    def write(file):
        file["deep/pixels"] = IMAGES
        file["images"] = h5py.SoftLink("/deep/pixels")
    assert isinstance(is_right(made("soft.h5", write)).images, np.memmap)


@pytest.mark.parametrize("link, message", [
    (h5py.SoftLink("/no\x1b[31m"), r"/images is a link to /no\\x1b\[31m, which cannot be opened"),
    (h5py.ExternalLink("gone\x1b.h5", "/x"), r"/images is a link to /x in gone\\x1b.h5, which cannot be opened"),
    (h5py.ExternalLink("real.h5", "/no"), "/images is a link to /no in real.h5, which cannot be opened"),
    (h5py.SoftLink("/images"), "/images is a link to /images, which cannot be opened"),
    (h5py.ExternalLink("bad.h5", "/images"), "/images is a link to /images in bad.h5, which cannot be opened"),
    (h5py.ExternalLink("real.h5", "/"), "/images is a link to / in real.h5, which is a group"),
])
def test_links_to_nothing_are_named(here, link, message):
    refused(made("bad.h5", lambda file: file.__setitem__("images", link)), message)


def test_labels_that_are_a_link_to_nothing_are_not_taken_for_none(here):
    def write(file):
        file["images"], file["labels"] = IMAGES, h5py.SoftLink("/gone")
    refused(made("bad.h5", write), "/labels is a link to /gone, which cannot be opened")


def test_virtual_datasets_whose_sources_are_there_are_read_right(here):
    (here / "a" / "b").mkdir(parents=True)
    for name, rows in (("a/first.h5", slice(0, 5)), ("second.h5", slice(5, 12))):
        with h5py.File(name, "w") as file:
            file["x/pixels"] = IMAGES[rows]
    sources = [(slice(0, 5), "first.h5", "x/pixels", (5, 4, 4, 1)),
               (slice(5, 12), str(here / "second.h5"), "x/pixels", (7, 4, 4, 1))]
    data = is_right(made("a/virtual.h5", lambda file: virtual(file, *sources)))
    assert not isinstance(data.images, np.memmap)
    assert {stamp.path for stamp in data.stamps} == {str(here / name) for name in ("a/virtual.h5", "a/first.h5", "second.h5")}
    # and one virtual dataset of another, in the same file
    with h5py.File("a/virtual.h5", "a") as file:
        file.move("images", "stitched")
        virtual(file, (slice(0, 12), ".", "stitched", IMAGES.shape))
    is_right("a/virtual.h5")
    os.rename("second.h5", "gone.h5")
    refused("a/virtual.h5", "second.h5, which is missing; HDF5 would give zeros")


@pytest.mark.parametrize("source, message", [
    ((slice(0, 12), "gone\x1b.h5", "images", IMAGES.shape), r"of images in gone\\x1b.h5, which is missing; HDF5 would"),
    ((slice(0, 12), "real.h5", "pixels", IMAGES.shape), "of pixels in real.h5, which cannot be opened"),
    ((slice(0, 12), "real.h5", "images", (12, 4, 4, 1)), None),
    ((slice(0, 11), "real.h5", "images", (11, 4, 4, 1)), "of images in real.h5, which has another shape"),
    ((slice(0, 12), "words.h5", "images", IMAGES.shape), "which cannot be opened"),
    ((slice(0, 12), "short.h5", "images", IMAGES.shape), "of images in short.h5, which has another shape than when"),
    ((slice(0, 12), "never.h5", "images", IMAGES.shape), "of images in never.h5, which has shape .*, but was never written"),
])
def test_virtual_datasets_with_something_missing_are_refused(here, source, message):
    (here / "words.h5").write_text("no HDF5")
    with h5py.File("short.h5", "w") as file:
        file["images"] = IMAGES[:9]
    with h5py.File("never.h5", "w") as file:
        file.create_dataset("images", IMAGES.shape, np.uint8)
    name = made("virtual.h5", lambda file: virtual(file, source))
    if message is None:
        is_right(name)
    else:
        refused(name, message)


def test_a_virtual_dataset_with_a_gap_is_refused(here):
    with h5py.File("part.h5", "w") as file:
        file["images"] = IMAGES[:9]
    name = made("virtual.h5", lambda file: virtual(file, (slice(0, 9), "part.h5", "images", (9, 4, 4, 1))))
    refused(name, "/images is a virtual dataset, and 48 of its 192 values have no source")


def test_a_virtual_dataset_without_a_fixed_length(here):
    def write(file):
        layout = h5py.VirtualLayout(IMAGES.shape, np.uint8, maxshape=(None, 4, 4, 1))
        layout[:] = h5py.VirtualSource("real.h5", "images", IMAGES.shape, maxshape=(None, 4, 4, 1))
        file.create_virtual_dataset("images", layout)
    is_right(made("virtual.h5", write))


def test_virtual_datasets_of_numbered_files_are_refused(here):
    def write(file):
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        space = h5py.h5s.create_simple(IMAGES.shape, (h5py.h5s.UNLIMITED, 4, 4, 1))
        space.select_hyperslab((0, 0, 0, 0), (h5py.h5s.UNLIMITED, 1, 1, 1), (6, 4, 4, 1), (6, 4, 4, 1))
        create.set_virtual(space, b"part-%b.h5", b"images", h5py.h5s.create_simple((6, 4, 4, 1)))
        h5py.h5d.create(file.id, b"images", h5py.h5t.NATIVE_UINT8, space, create)
    for number in range(2):
        with h5py.File(f"part-{number}.h5", "w") as file:
            file["images"] = IMAGES[6 * number:6 * number + 6]
    refused(made("virtual.h5", write), "/images is a virtual dataset of numbered files")


@pytest.mark.slow
@pytest.mark.parametrize("circle", ["itself", "a link to itself", "two files", "two datasets", "labels"])
def test_virtual_datasets_made_of_themselves_are_refused_before_hdf5_dies(here, circle):
    whole = (slice(0, 12),)
    if circle == "labels":
        def write(file):
            file["images"] = IMAGES
            layout = h5py.VirtualLayout((12,), np.int64)
            layout[:] = h5py.VirtualSource(".", "labels", (12,))
            file.create_virtual_dataset("labels", layout)
        made("circle.h5", write)
    elif circle == "a link to itself":
        made("circle.h5", lambda file: (virtual(file, (*whole, ".", "other", IMAGES.shape)),
                                        file.__setitem__("other", h5py.SoftLink("/images"))))
    elif circle == "two files":
        made("circle.h5", lambda file: virtual(file, (*whole, "back.h5", "images", IMAGES.shape)))
        made("back.h5", lambda file: virtual(file, (*whole, "circle.h5", "images", IMAGES.shape)))
    elif circle == "two datasets":
        def write(file):
            virtual(file, (*whole, ".", "images", IMAGES.shape))
            file.move("images", "other")
            virtual(file, (*whole, ".", "other", IMAGES.shape))
        made("circle.h5", write)
    else:
        made("circle.h5", lambda file: virtual(file, (*whole, "circle.h5", "images", IMAGES.shape)))
    code = ("import sys\nfrom jobs.data.dataset import open_data\nfrom jobs.errors import UserError\n"
            "try: open_data('circle.h5', 4, 1, 3)\nexcept UserError as error: print(error)\nelse: sys.exit('opened')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "made of itself" in done.stdout and len(done.stdout.splitlines()) == 1


def test_virtual_datasets_of_many_files_and_levels(here):
    """HDF5 gives zeros for files beyond the limit of open files; a source may be shared on each of several levels."""
    for number in range(100):
        with h5py.File(f"{number}.h5", "w") as file:
            file["images"] = IMAGES[number % 12][None]
    rows = [(slice(number, number + 1), f"{number}.h5", "images", (1, 4, 4, 1)) for number in range(100)]
    made("many.h5", lambda file: (virtual(file, *rows, shape=(100, 4, 4, 1)), file.__setitem__("labels", np.arange(100))))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    np.testing.assert_array_equal(open_data("many.h5", 4, 1).images, IMAGES[np.arange(100) % 12])
    resource.setrlimit(resource.RLIMIT_NOFILE, (90, limit[1]))
    try:
        refused("many.h5", r"/images is made of 101 files, and this process may have 90 open \(`ulimit -n`\)")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    with h5py.File("level0.h5", "w") as file:
        file["images"] = IMAGES
    for level in range(1, 8):
        layout = h5py.VirtualLayout(IMAGES.shape, np.uint8)
        for row in range(12):
            layout[row] = h5py.VirtualSource(f"level{level - 1}.h5", "images", IMAGES.shape)[row]
        with h5py.File(f"level{level}.h5", "w") as file:
            file.create_virtual_dataset("images", layout)
            file["labels"] = LABELS
    begun = time.monotonic()
    is_right("level7.h5")  # 12 ** 7 ways lead to level 0
    assert time.monotonic() - begun < 60


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
