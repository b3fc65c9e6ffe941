import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data import dataset as data_module
from jobs.data import order
from jobs.data.dataset import ImageData, fingerprint, load_batch, open_data
from jobs.data.order import batch_indices, flip_mask
from jobs.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)
LABELS = np.arange(20) % 4


def make_file(path, images=IMAGES, labels=LABELS, userblock_size=0, **storage):
    with h5py.File(path, "w", userblock_size=userblock_size) as file:
        if images is not None:
            file.create_dataset("images", data=images, **storage)
        if labels is not None:
            file["labels"] = labels
        file.attrs["source"] = "a test"
        file.attrs["class_names"] = json.dumps(["ant", "bee", "cat", "dog"])
    return str(path)


@pytest.mark.parametrize("userblock_size", [0, 512])
def test_contiguous_images_are_mapped_read_only(tmp_path, userblock_size):
    data = open_data(make_file(tmp_path / "a.h5", userblock_size=userblock_size), 6, 3, 4)
    assert isinstance(data.images, np.memmap) and not data.images.flags.writeable
    np.testing.assert_array_equal(data.images, IMAGES)
    np.testing.assert_array_equal(data.labels, LABELS)
    assert (data.class_names, data.source, len(data)) == (["ant", "bee", "cat", "dog"], "a test", 20)


@pytest.mark.parametrize("storage", [{"chunks": (7, 6, 6, 3)}, {"compression": "gzip"},
                                     {"chunks": True, "maxshape": (None, 6, 6, 3)}])
def test_chunked_images_are_read(tmp_path, storage):
    data = open_data(make_file(tmp_path / "a.h5", **storage), 6, 3)
    assert not isinstance(data.images, np.memmap)
    np.testing.assert_array_equal(data.images, IMAGES)


def test_images_in_an_external_file_are_read(tmp_path):
    (tmp_path / "raw").write_bytes(IMAGES.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", IMAGES.shape, np.uint8, external=[(str(tmp_path / "raw"), 0, IMAGES.nbytes)])
    np.testing.assert_array_equal(open_data(str(tmp_path / "a.h5"), 6, 3).images, IMAGES)


def test_labels_of_any_integer_type_become_int64(tmp_path):
    data = open_data(make_file(tmp_path / "a.h5", labels=LABELS.astype(">u2")), 6, 3, 4)
    assert data.labels.dtype == np.int64
    np.testing.assert_array_equal(data.labels, LABELS)


def test_images_without_labels(tmp_path):
    path = make_file(tmp_path / "a.h5", labels=None)
    assert open_data(path, 6, 3).labels is None
    with pytest.raises(UserError, match="a.h5: has no /labels, which a class-conditional model needs"):
        open_data(path, 6, 3, num_classes=4)


@pytest.mark.parametrize("change, message", [
    ({"images": None}, "has no /images; it holds: labels"),
    ({"images": IMAGES.astype("f4")}, r"/images is float32 with shape \[20, 6, 6, 3\]; it must be uint8 \[N, H,"),
    ({"images": IMAGES[..., 0]}, r"/images is uint8 with shape \[20, 6, 6\]"),
    ({"images": IMAGES[:0], "labels": LABELS[:0]}, "/images is empty"),
    ({"images": IMAGES[:, :, :5]}, "images are 6x5, but image_size is 6"),
    ({"images": IMAGES[..., :1]}, "images have 1 channels, but channels is 3"),
    ({"images": h5py.Empty("u1")}, "/images is uint8 with shape"),
    ({"labels": LABELS[:19]}, "19 labels for 20 images"),
    ({"labels": LABELS.astype(float)}, "/labels is float64"),
    ({"labels": LABELS[:, None]}, r"/labels is int64 with shape \[20, 1\]; it must be int64 \[N\]"),
    ({"labels": LABELS + 1}, r"label 4 of image 3 is outside 0 .. 3 \(num_classes is 4\); 5 such labels in all"),
    ({"labels": LABELS - 1}, "label -1 of image 0 is outside 0 .. 3"),
])
def test_bad_contents_are_named(tmp_path, change, message):
    path = make_file(tmp_path / "a.h5", **change)
    with pytest.raises(UserError, match=f"^{path}: {message}"):
        open_data(path, 6, 3, num_classes=4)


def test_a_group_in_the_place_of_images(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("images")
    with pytest.raises(UserError, match="/images is a group"):
        open_data(str(tmp_path / "a.h5"), 6, 3)


@pytest.mark.parametrize("value", ["no JSON", '{"a": 1}', "[1]", 3])
def test_bad_class_names_are_named(tmp_path, value):
    path = make_file(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file.attrs["class_names"] = value
    with pytest.raises(UserError, match="attribute class_names must be a JSON list of strings"):
        open_data(path, 6, 3)


def test_files_that_are_no_data_sets(tmp_path):
    with pytest.raises(UserError, match="missing.h5: no such file; make a data set with `iddpm data"):
        open_data(str(tmp_path / "missing.h5"), 6, 3)
    with pytest.raises(UserError, match="a folder, not an HDF5 file"):
        open_data(str(tmp_path), 6, 3)
    for content in (b"", b"not HDF5" * 1000):
        (tmp_path / "a.h5").write_bytes(content)
        with pytest.raises(UserError, match="a.h5: not an HDF5 file, or a damaged one"):
            open_data(str(tmp_path / "a.h5"), 6, 3)


@pytest.mark.parametrize("storage", [{}, {"compression": "gzip"}])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, storage):
    path = make_file(tmp_path / "whole.h5", **storage)
    whole = (tmp_path / "whole.h5").read_bytes()
    open_data(path, 6, 3)
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        (tmp_path / "cut.h5").write_bytes(whole[:length])
        with pytest.raises(UserError, match="cut.h5: not an HDF5 file, or a damaged one"):
            open_data(str(tmp_path / "cut.h5"), 6, 3)


def test_damaged_compressed_images_are_refused(tmp_path):
    path = make_file(tmp_path / "a.h5", compression="gzip", chunks=IMAGES.shape)
    with h5py.File(path) as file:
        chunk = file["images"].id.get_chunk_info(0)
    with open(path, "r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    with pytest.raises(UserError, match="a damaged one"):
        open_data(path, 6, 3)


def test_fingerprint_is_of_the_content_alone(tmp_path, monkeypatch):
    mapped = open_data(make_file(tmp_path / "a.h5"), 6, 3)
    chunked = open_data(make_file(tmp_path / "b.h5", chunks=True), 6, 3)
    expected = fingerprint(mapped)
    monkeypatch.setattr(data_module, "_BLOCK", 3)
    assert fingerprint(mapped) == fingerprint(chunked) == expected

    def changed(images=IMAGES, labels=LABELS):
        return fingerprint(ImageData(images, labels, [], ""))

    assert changed() == expected
    one_pixel, one_label = IMAGES.copy(), LABELS.copy()
    one_pixel[19, 5, 5, 2] ^= 1
    one_label[19] += 1
    others = [changed(images=one_pixel), changed(labels=one_label), changed(labels=None), changed(images=IMAGES[:19]),
              changed(images=IMAGES.reshape(20, 3, 12, 3))]
    assert len({expected, *others}) == 6


def stream(num_examples, batch_size, steps, seed):
    return np.concatenate([batch_indices(num_examples, batch_size, step, seed) for step in range(steps)])


@settings(max_examples=60, deadline=None)
@given(num_examples=st.integers(1, 50), batch_size=st.integers(1, 120), seed=st.integers(0, 2**80))
def test_every_epoch_is_a_permutation(num_examples, batch_size, seed):
    seen = stream(num_examples, batch_size, 3 * num_examples // batch_size + 2, seed)
    assert seen.dtype == np.int64
    epochs = seen[:len(seen) // num_examples * num_examples].reshape(-1, num_examples)
    assert len(epochs) >= 3
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(num_examples), (len(epochs), 1)))


@settings(max_examples=60, deadline=None)
@given(num_examples=st.integers(1, 50), ranks=st.integers(1, 8), per_rank=st.integers(1, 9), seed=st.integers(0, 9))
def test_the_order_of_examples_depends_on_no_split(num_examples, ranks, per_rank, seed):
    # Each rank cuts its part out of the global batch, in a process of its own.
    steps = 4
    parts = np.empty((steps, ranks, per_rank), np.int64)
    for rank in range(ranks):
        order._permutation.cache_clear()
        for step in range(steps):
            batch = batch_indices(num_examples, ranks * per_rank, step, seed)
            parts[step, rank] = batch[rank * per_rank:(rank + 1) * per_rank]
    np.testing.assert_array_equal(parts.ravel(), stream(num_examples, 1, steps * ranks * per_rank, seed))


def test_a_batch_straddles_epochs():
    seen = stream(10, 4, 5, seed=1)  # 2 epochs; the third batch has the last 2 of the first and 2 of the second
    np.testing.assert_array_equal(batch_indices(10, 4, 2, seed=1), seen[8:12])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))


def test_a_batch_does_not_depend_on_what_was_asked_before():
    expected = [batch_indices(100, 30, step, seed=5) for step in range(20)]
    for step in (19, 0, 7, 7, 3):
        batch = batch_indices(100, 30, step, seed=5)
        np.testing.assert_array_equal(batch, expected[step])
        batch[:] = -1  # a caller's change must not reach the cache
    order._permutation.cache_clear()
    np.testing.assert_array_equal(batch_indices(100, 30, 7, seed=5), expected[7])


def test_epochs_and_seeds_are_shuffled_differently():
    orders = {tuple(batch_indices(30, 30, step, seed)) for step in range(5) for seed in (0, 1, 2**32, 2**64)}
    assert len(orders) == 20 and tuple(range(30)) not in orders


def test_every_example_comes_first_equally_often():
    first = np.array([batch_indices(8, 8, epoch, seed=0)[0] for epoch in range(4000)])
    counts = np.bincount(first, minlength=8)
    assert abs(counts - 500).max() < 5 * np.sqrt(500)


def test_a_step_does_not_shuffle_again():
    order._permutation.cache_clear()
    for step in range(25):
        batch_indices(1000, 100, step, seed=0)
    assert order._permutation.cache_info().misses == 3


def test_order_and_flips_are_those_of_earlier_releases():
    # A run that goes on under newer packages must see the same examples: these values may never change.
    assert batch_indices(10, 12, 3, seed=7).tolist() == [4, 3, 8, 0, 3, 1, 5, 4, 7, 6, 8, 0]
    assert np.flatnonzero(flip_mask(16, 3, seed=7)).tolist() == [0, 1, 4, 6, 7, 10, 11, 12, 13, 15]


def test_flip_mask_is_fair_and_differs_between_steps_and_seeds():
    mask = flip_mask(20_000, 0, seed=0)
    assert mask.dtype == bool and mask.shape == (20_000,)
    assert abs(mask.mean() - 0.5) < 0.02
    np.testing.assert_array_equal(mask, flip_mask(20_000, 0, seed=0))
    for other in (flip_mask(20_000, 1, seed=0), flip_mask(20_000, 0, seed=1)):
        assert abs((mask == other).mean() - 0.5) < 0.02


def test_flips_do_not_follow_the_order_of_examples():
    order = np.concatenate([batch_indices(1000, 1000, step, seed=0) for step in range(20)])
    mask = np.concatenate([flip_mask(1000, step, seed=0) for step in range(20)])
    assert abs(np.corrcoef(order, mask)[0, 1]) < 0.04


def test_load_batch_keeps_the_order_and_mirrors(tmp_path):
    data = open_data(make_file(tmp_path / "a.h5"), 6, 3)
    indices = np.array([7, 3, 19, 3])
    plain = load_batch(data, indices, None)
    assert type(plain) is np.ndarray and plain.dtype == np.uint8 and plain.flags.c_contiguous and plain.flags.writeable
    np.testing.assert_array_equal(plain, IMAGES[indices].transpose(0, 3, 1, 2))
    flipped = load_batch(data, indices, np.array([False, True, True, False]))
    assert flipped.flags.c_contiguous
    np.testing.assert_array_equal(flipped[[0, 3]], plain[[0, 3]])
    np.testing.assert_array_equal(flipped[[1, 2]], plain[[1, 2], :, :, ::-1])
    np.testing.assert_array_equal(data.images, IMAGES)


def test_load_batch_leaves_data_in_memory_alone():
    data = ImageData(IMAGES.copy(), None, [], "")
    load_batch(data, np.arange(20), np.ones(20, bool))[:] = 0
    np.testing.assert_array_equal(data.images, IMAGES)


def test_importing_is_light():
    code = "import sys, jobs.data.dataset, jobs.data.importers.arrays; sys.exit(bool({'torch', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
