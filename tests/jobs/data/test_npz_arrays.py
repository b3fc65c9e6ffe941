"""Arrays inside .npz files."""

import io
import zipfile

import numpy as np
import pytest

from jobs.data.npz_arrays import open_array, read_header

ARRAY = np.random.default_rng(0).integers(0, 256, (7, 4, 3), np.uint8)


@pytest.mark.parametrize("save, mapped", [(np.savez, True), (np.savez_compressed, False)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_is_mapped_if_it_is_not_compressed(tmp_path, save, mapped, order):
    save(tmp_path / "a.npz", other=np.arange(5), x=np.array(ARRAY, order=order))
    found = open_array(tmp_path / "a.npz", "x")
    assert isinstance(found, np.memmap) == mapped and not (mapped and found.flags.writeable)
    np.testing.assert_array_equal(found, ARRAY)
    np.testing.assert_array_equal(open_array(str(tmp_path / "a.npz"), "other"), np.arange(5))


def test_extra_fields_before_the_array_are_skipped(tmp_path):
    content = io.BytesIO()
    np.save(content, ARRAY)
    member = zipfile.ZipInfo("x.npy")
    member.extra = b"\x99\x99\x04\x00abcd"  # an extra field of four bytes
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(member, content.getvalue())
    np.testing.assert_array_equal(open_array(tmp_path / "a.npz", "x"), ARRAY)


def test_an_empty_array_and_one_that_is_not_there(tmp_path):
    np.savez(tmp_path / "a.npz", x=ARRAY[:0])
    assert open_array(tmp_path / "a.npz", "x").shape == (0, 4, 3)
    with pytest.raises(KeyError):
        open_array(tmp_path / "a.npz", "y")


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_a_header_tells_shape_type_and_order_and_leaves_the_stream_at_the_array(version):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asfortranarray(ARRAY), version)
    stream.seek(0)
    header = read_header(stream)
    assert (header.shape, header.dtype, header.fortran_order) == ((7, 4, 3), np.uint8, True)
    assert stream.read() == ARRAY.tobytes(order="F")
    with pytest.raises(ValueError):
        read_header(io.BytesIO(b"junk"))
