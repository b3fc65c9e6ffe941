"""CIFAR-10 and .npz files as data sets."""

import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest

from jobs.data.dataset import open_data
from jobs.data.importers import arrays as data_import
from jobs.data.importers.arrays import import_cifar10, import_npz
from jobs.errors import UserError

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def assert_nothing_written(output):
    assert not output.parent.exists() or list(output.parent.iterdir()) == []


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "data.h5"


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 did, which made the archive."""
    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        value = value.encode() if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def python2_pickle(value):
    buffer = io.BytesIO()
    Python2Pickler(buffer, 2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCH_NAMES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
CIFAR_IMAGES = noise(18, 32, 32, 3)
CIFAR_LABELS = list(RNG.permutation(18) % 10)


def cifar_members(**changes):
    """Files of the archive, three images in each; `changes` replace entries of data_batch_2."""
    members = {"batches.meta": {"num_cases_per_batch": 3, "label_names": CLASSES, "num_vis": 3072}}
    for number, name in enumerate(BATCH_NAMES):
        part = slice(3 * number, 3 * number + 3)
        members[name] = {"batch_label": name, "labels": [int(label) for label in CIFAR_LABELS[part]],
                         "data": np.stack([image.transpose(2, 0, 1).ravel() for image in CIFAR_IMAGES[part]]),
                         "filenames": ["a_s_000004.png"] * 3}
    members["data_batch_2"].update(changes)
    return {name: python2_pickle(value) for name, value in members.items()}


def make_archive(path, members, folder="cifar-10-batches-py"):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in {**members, "readme.html": b"hello"}.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize("split, part", [("train", slice(0, 15)), ("test", slice(15, 18))])
def test_cifar10(tmp_path, output, unpacked, split, part):
    source = make_archive(tmp_path / "cifar-10-python.tar.gz", cifar_members())
    if unpacked:
        source = tmp_path / "cifar-10-batches-py"
        source.mkdir()
        for name, content in cifar_members().items():
            (source / name).write_bytes(content)
    summary = import_cifar10(source, output, split)
    data = open_data(str(output), 32, 3, 10)
    assert isinstance(data.images, np.memmap)
    np.testing.assert_array_equal(data.images, CIFAR_IMAGES[part])
    assert data.labels.tolist() == CIFAR_LABELS[part]
    assert (summary.count, summary.classes, data.class_names) == (len(data), CLASSES, CLASSES)
    assert data.source == f"CIFAR-10, {split}"


class Malice:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.mkdir, exec, getattr, np.save, np.load])
def test_a_pickle_runs_no_code(tmp_path, output, function):
    trap = tmp_path / "trap"
    arguments = {exec: (f"import os; os.mkdir({str(trap)!r})",), getattr: (1, "real")}.get(function, (str(trap),))
    members = {**cifar_members(), "data_batch_2": pickle.dumps({b"data": Malice(function, *arguments)}, 2)}
    with pytest.raises(UserError, match="data_batch_2 is not .*it asks for .*which no image data needs"):
        import_cifar10(make_archive(tmp_path / "a.tar.gz", members), output, "train")
    assert not trap.exists()
    assert_nothing_written(output)


@pytest.mark.parametrize("changes, message", [
    ({"data": np.zeros((3, 3071), np.uint8)}, r"data_batch_2: data is uint8 \[3, 3071\]; it must be uint8"),
    ({"data": np.zeros((3, 3072), np.float32)}, r"data is float32 \[3, 3072\]"),
    ({"data": np.zeros(3072, np.uint8)}, r"data is uint8 \[3072\]"),
    ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, r"data is uint8 \[0, 3072\]"),
    ({"data": [1, 2]}, "data is list"),
    ({"labels": [0, 1]}, "data_batch_2: labels must be 3 numbers in 0 .. 9"),
    ({"labels": [0, 1, 10]}, "labels must be 3 numbers in 0 .. 9"),
    ({"labels": [0, 1, "cat"]}, "labels must be 3 numbers in 0 .. 9"),
    ({"labels": None}, "labels must be 3 numbers in 0 .. 9"),
])
def test_bad_cifar_batches_are_named(tmp_path, output, changes, message):
    with pytest.raises(UserError, match=f"a.tar.gz: .*{message}"):
        import_cifar10(make_archive(tmp_path / "a.tar.gz", cifar_members(**changes)), output, "train")
    assert_nothing_written(output)


def test_incomplete_cifar_archives(tmp_path, output):
    members = cifar_members()
    incomplete = {name: content for name, content in members.items() if name not in ("data_batch_3", "data_batch_5")}
    archive = make_archive(tmp_path / "a.tar.gz", incomplete)
    with pytest.raises(UserError, match="has no cifar-10-batches-py/data_batch_3.* data_batch_3, data_batch_5"):
        import_cifar10(archive, output, "train")
    assert import_cifar10(archive, output, "test").count == 3
    elsewhere = make_archive(tmp_path / "b.tar.gz", members, folder="cifar-100-python")
    with pytest.raises(UserError, match="b.tar.gz: has no cifar-10-batches-py/batches.meta"):
        import_cifar10(elsewhere, output, "test")
    nameless = make_archive(tmp_path / "c.tar.gz", {**members, "batches.meta": python2_pickle([])})
    with pytest.raises(UserError, match="batches.meta has no label_names"):
        import_cifar10(nameless, output, "test")


def test_damaged_cifar_archives(tmp_path, output):
    archive = make_archive(tmp_path / "a.tar.gz", cifar_members())
    whole = archive.read_bytes()
    checksum_wrong = whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]
    for content in (whole[:len(whole) // 2], whole[:-3], checksum_wrong, b"", b"no archive" * 100, whole[:5]):
        archive.write_bytes(content)
        with pytest.raises(UserError, match="a.tar.gz: not a whole tar archive"):
            import_cifar10(archive, output, "train")
    with pytest.raises(UserError, match="missing.tar.gz: no such file; give cifar-10-python.tar.gz or"):
        import_cifar10(tmp_path / "missing.tar.gz", output, "train")
    members = cifar_members()
    members["data_batch_4"] = members["data_batch_4"][:-2000]
    with pytest.raises(UserError, match="data_batch_4 is not a CIFAR-10 pickle, or a damaged one"):
        import_cifar10(make_archive(tmp_path / "b.tar.gz", members), output, "train")
    assert_nothing_written(output)


NPZ_IMAGES = noise(7, 4, 4, 3)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("images, labels", [("arr_0", "arr_1"), ("images", "labels")])
def test_npz(tmp_path, output, monkeypatch, write, images, labels):
    monkeypatch.setattr(data_import, "_BLOCK", 3)
    write(tmp_path / "a.npz", **{images: NPZ_IMAGES, labels: np.arange(7, dtype=np.int32)})
    assert import_npz(tmp_path / "a.npz", output).count == 7
    data = open_data(str(output), 4, 3, 7)
    assert isinstance(data.images, np.memmap)
    np.testing.assert_array_equal(data.images, NPZ_IMAGES)
    assert data.labels.tolist() == list(range(7)) and data.source == f"npz file {tmp_path / 'a.npz'}"


def test_npz_without_labels(tmp_path, output):
    np.savez(tmp_path / "a.npz", NPZ_IMAGES)
    import_npz(tmp_path / "a.npz", output)
    assert open_data(str(output), 4, 3).labels is None


@pytest.mark.parametrize("arrays, message", [
    ({"x": NPZ_IMAGES}, "has neither arr_0 nor images; it holds: x.npy"),
    ({"arr_0": NPZ_IMAGES.astype(np.float32)}, r"arr_0.npy is float32 \[7, 4, 4, 3\]; it must be uint8 \[N, H, W, C\]"),
    ({"arr_0": NPZ_IMAGES[0]}, r"arr_0.npy is uint8 \[4, 4, 3\]"),
    ({"arr_0": NPZ_IMAGES[:0]}, r"arr_0.npy is uint8 \[0, 4, 4, 3\]"),
    ({"arr_0": np.asfortranarray(NPZ_IMAGES)}, "arr_0.npy is stored in Fortran order"),
    ({"arr_0": np.array([Malice(os.mkdir, "trap")])}, r"arr_0.npy is object \[1\]"),
    ({"arr_0": NPZ_IMAGES, "arr_1": np.array([Malice(os.mkdir, "trap")] * 7)}, r"arr_1.npy is object \[7\]"),
    ({"arr_0": NPZ_IMAGES, "arr_1": np.zeros(7)}, r"arr_1.npy is float64 \[7\]; labels must be whole numbers \[N\]"),
    ({"arr_0": NPZ_IMAGES, "arr_1": np.zeros(6, int)}, "6 labels for 7 images"),
    ({"arr_0": NPZ_IMAGES, "labels": np.full(7, -1)}, "labels.npy must hold 7 labels of 0 and up"),
])
def test_bad_npz_contents_are_named(tmp_path, output, monkeypatch, arrays, message):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=f"a.npz: {message}"):
        import_npz(tmp_path / "a.npz", output)
    assert not (tmp_path / "trap").exists()
    assert_nothing_written(output)


def test_damaged_npz_files(tmp_path, output):
    source = tmp_path / "a.npz"
    np.savez(source, NPZ_IMAGES)
    whole = source.read_bytes()
    one_bit = bytearray(whole)
    one_bit[whole.index(NPZ_IMAGES.tobytes()) + 100] ^= 1
    for content in (bytes(one_bit), whole[:-30], whole[:200], b"", b"no zip" * 100):
        source.write_bytes(content)
        with pytest.raises(UserError, match="a.npz: not an .npz file, or a damaged one"):
            import_npz(source, output)
    with pytest.raises(UserError, match="missing.npz: no such file"):
        import_npz(tmp_path / "missing.npz", output)
    with pytest.raises(UserError, match="not an .npz file"):
        import_npz(tmp_path, output)
    assert_nothing_written(output)


@pytest.mark.parametrize("claimed, message", [(9, "ends in image 7 of 9"), (5, "goes on after the last of 5 images")])
def test_an_npz_header_that_miscounts(tmp_path, output, claimed, message):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (claimed, 4, 4, 3)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", header.getvalue() + NPZ_IMAGES.tobytes())
    with pytest.raises(UserError, match=message):
        import_npz(tmp_path / "a.npz", output)
    assert_nothing_written(output)


def test_npz_is_not_overwritten_by_its_own_data_set(tmp_path):
    source = tmp_path / "a.npz"
    np.savez(source, NPZ_IMAGES)
    with pytest.raises(UserError, match="a.npz: exists and is not an HDF5 file"):
        import_npz(source, source)
    np.testing.assert_array_equal(np.load(source)["arr_0"], NPZ_IMAGES)


def test_npz_passes_through_memory_in_blocks(tmp_path, output):
    np.savez_compressed(tmp_path / "a.npz", np.zeros((5000, 32, 32, 3), np.uint8))  # 15 MB
    tracemalloc.start()
    try:
        import_npz(tmp_path / "a.npz", output)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5e6
    assert len(open_data(str(output), 32, 3)) == 5000
