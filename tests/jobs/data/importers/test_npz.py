""".npz files as data sets."""

import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from made_images import noise

from jobs.data.dataset import open_data
from jobs.data.importers import writer
from jobs.data.importers.averaged import average
from jobs.data.importers.npz import import_npz
from jobs.data.importers.writer import Writer
from jobs.errors import UserError

NPZ_IMAGES = noise(7, 4, 4, 3)


class Malice:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("images, labels", [("arr_0", "arr_1"), ("images", "labels")])
def test_npz(tmp_path, output, monkeypatch, write, images, labels):
    monkeypatch.setattr(writer, "_BLOCK", 3)
    write(tmp_path / "a.npz", **{images: NPZ_IMAGES, labels: np.arange(7, dtype=np.int32)})
    assert import_npz(tmp_path / "a.npz", Writer(output)).count == 7
    data = open_data(str(output), 4, 3, 7)
    assert isinstance(data.images, np.memmap)
    np.testing.assert_array_equal(data.images, NPZ_IMAGES)
    assert data.labels.tolist() == list(range(7)) and data.source == f"npz file {tmp_path / 'a.npz'}"


def test_npz_without_labels(tmp_path, output):
    np.savez(tmp_path / "a.npz", NPZ_IMAGES)
    import_npz(tmp_path / "a.npz", Writer(output))
    assert open_data(str(output), 4, 3).labels is None


def test_npz_with_class_names(tmp_path, output):
    np.savez(tmp_path / "a.npz", NPZ_IMAGES, np.arange(7) % 2)
    (tmp_path / "names").write_text("cat\ndog")
    import_npz(tmp_path / "a.npz", Writer(output), class_names=tmp_path / "names")
    assert open_data(str(output), 4, 3, 2).class_names == ["cat", "dog"]
    np.savez(tmp_path / "a.npz", NPZ_IMAGES)
    with pytest.raises(UserError, match="a.npz: has no labels, so there are no classes for the names in .*names"):
        import_npz(tmp_path / "a.npz", Writer(output), class_names=tmp_path / "names")


def test_npz_averaged_down(tmp_path, output):
    np.savez(tmp_path / "a.npz", NPZ_IMAGES)
    import_npz(tmp_path / "a.npz", Writer(output), 2)
    data = open_data(str(output), 2, 3)
    np.testing.assert_array_equal(data.images, average(NPZ_IMAGES, 2))
    assert data.source.endswith("a.npz, averaged from 4x4 to 2x2")
    with pytest.raises(UserError, match="arr_0.npy: images are 4x4, smaller than image_size 5"):
        import_npz(tmp_path / "a.npz", Writer(output), 5)


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
def test_bad_npz_contents_are_named(tmp_path, output, monkeypatch, arrays, message, assert_nothing_written):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=f"a.npz: {message}"):
        import_npz(tmp_path / "a.npz", Writer(output))
    assert not (tmp_path / "trap").exists()
    assert_nothing_written()


def test_damaged_npz_files(tmp_path, output, assert_nothing_written):
    source = tmp_path / "a.npz"
    np.savez(source, NPZ_IMAGES)
    whole = source.read_bytes()
    one_bit = bytearray(whole)
    one_bit[whole.index(NPZ_IMAGES.tobytes()) + 100] ^= 1
    for content in (bytes(one_bit), whole[:-30], whole[:200], b"", b"no zip" * 100):
        source.write_bytes(content)
        with pytest.raises(UserError, match="a.npz: not an .npz file, or a damaged one"):
            import_npz(source, Writer(output))
    with pytest.raises(UserError, match="missing.npz: no such file"):
        import_npz(tmp_path / "missing.npz", Writer(output))
    with pytest.raises(UserError, match="not an .npz file"):
        import_npz(tmp_path, Writer(output))
    assert_nothing_written()


@pytest.mark.parametrize("claimed, message", [(9, "which is 432 bytes, but holds 336"), (5, "which is 240 bytes, but holds 336")])
def test_an_npz_header_that_miscounts(tmp_path, output, claimed, message, assert_nothing_written):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (claimed, 4, 4, 3)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", header.getvalue() + NPZ_IMAGES.tobytes())
    with pytest.raises(UserError, match=message):
        import_npz(tmp_path / "a.npz", Writer(output))
    assert_nothing_written()


def test_npz_is_not_overwritten_by_its_own_data_set(tmp_path):
    source = tmp_path / "a.npz"
    np.savez(source, NPZ_IMAGES)
    with pytest.raises(UserError, match="a.npz: exists and is not an HDF5 file"):
        import_npz(source, Writer(source))
    np.testing.assert_array_equal(np.load(source)["arr_0"], NPZ_IMAGES)


def test_npz_passes_through_memory_in_blocks(tmp_path, output):
    np.savez_compressed(tmp_path / "a.npz", np.zeros((5000, 32, 32, 3), np.uint8))  # 15 MB
    tracemalloc.start()
    try:
        import_npz(tmp_path / "a.npz", Writer(output))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5e6
    assert len(open_data(str(output), 32, 3)) == 5000


@pytest.mark.parametrize("shape, message", [
    ((60, 3, 8, 8), r"images are 3x8; they must be square; \[60, 3, 8, 8\] looks like \[N, C, H, W\]"),
    ((60, 1, 8, 16), r"images are 1x8; they must be square; \[60, 1, 8, 16\] looks like"),
    ((60, 4, 6, 6), "images are 4x6; they must be square; .* looks like"),
    ((60, 8, 16, 3), "images are 8x16; they must be square$"),
])
def test_axes_in_another_order_and_images_that_are_not_square(tmp_path, output, shape, message, assert_nothing_written):
    np.savez(tmp_path / "a.npz", noise(*shape))
    with pytest.raises(UserError, match=f"^{tmp_path / 'a.npz'}: arr_0.npy: {message}"):
        import_npz(tmp_path / "a.npz", Writer(output))
    assert_nothing_written()
