"""Links and virtual datasets of other programs are read right, or refused before HDF5 gives zeros for what is missing."""

import os
import resource
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from made_hdf5 import IMAGES, LABELS, is_right, made, refused, virtual

from jobs.data.dataset import open_data


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
