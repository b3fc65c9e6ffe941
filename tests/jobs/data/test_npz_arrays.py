"""Arrays inside .npz files."""

import io
import os
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jobs.data.importers.npz import import_npz
from jobs.data.importers.writer import Writer
from jobs.data.npz_arrays import open_npz, read_header
from jobs.data.sources import open_images, open_reference
from jobs.errors import UserError

ARRAY = np.random.default_rng(0).integers(0, 256, (7, 4, 3), np.uint8)


def open_array(path, name):
    with open_npz(path) as npz:
        return npz.array(name)


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
    with pytest.raises(UserError, match="a.npz: not an .npz file, or a damaged one"):
        open_array(tmp_path / "a.npz", "y")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_a_header_tells_shape_type_and_order_and_leaves_the_stream_at_the_array(version):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asfortranarray(ARRAY), version)
    stream.seek(0)
    header = read_header(stream)
    assert (header.shape, header.dtype, header.fortran_order) == ((7, 4, 3), np.uint8, True)
    assert stream.read() == ARRAY.tobytes(order="F")
    with pytest.raises(ValueError):
        read_header(io.BytesIO(b"junk"))


def npy(shape, payload=b"", descr="'|u1'", version=1, order=False):
    """The bytes of an .npy file whose header says anything."""
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text.encode() + payload


def archive(path, content, name="arr_0.npy", packed=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", packed) as file:
        file.writestr(name, content)
    return str(path)


def refused(path, message):
    """By everything that reads such a file, in one sentence."""
    for use in (lambda: open_images(path), lambda: open_reference(path, 8, 1),
                lambda: import_npz(Path(path), Writer(Path(path).parent / "out" / "a.h5"))):
        with pytest.raises(UserError, match=message) as caught:
            use()
        assert str(caught.value).startswith(f"{path}: ") and str(caught.value).isprintable() and len(str(caught.value)) < 700
    assert not (Path(path).parent / "out").exists()


@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("shape, message", [
    ("(-4, 8, 8, 1)", r"its shape is \[-4, 8, 8, 1\]"),
    ("(-4, -8, 8, 1)", r"its shape is \[-4, -8, 8, 1\]"),
    ("(4611686018427387904, 8, 8, 1)", "which is 295147905179352825856 bytes, but holds 256"),
    ("(10000000000, 8, 8, 1)", "which is 640000000000 bytes, but holds 256"),
    ("(5, 8, 8, 1)", "which is 320 bytes, but holds 256"),
    ("(3, 8, 8, 1)", "which is 192 bytes, but holds 256"),
    ("(True, 256)", "its shape is "), ("(" + "1, " * 40 + ")", "its shape is "), ("(4.0, 64)", "damaged one"),
    ("7", "damaged one"),
    ("(" + "9" * 4000 + ", 8)", "its shape is "), ("(" * 3000 + ")" * 3000, "damaged one"), ("[" * 9000, "damaged one"),
], ids=lambda value: value[:20] if isinstance(value, str) else None)
def test_absurd_shapes_are_refused(tmp_path, shape, message, packed):
    refused(archive(tmp_path / "a.npz", npy(shape, bytes(256)), packed=packed), message)


@pytest.mark.parametrize("descr, message", [
    ("'|O'", "arr_0(.npy)? is object"), ("[('\\x1b[31m', '|u1')]", "arr_0(.npy)? is "), ("'<U4'", "arr_0(.npy)? is"),
    ("'|V0'", "is |V0|which is 0 bytes"), ("'nonsense'", "damaged one"), ("None", "damaged one|is float64"),
])
def test_other_types_are_refused(tmp_path, descr, message):
    refused(archive(tmp_path / "a.npz", npy("(4, 8, 8, 1)", bytes(256), descr)), message)


def test_a_header_that_is_a_bomb_is_not_read(tmp_path):
    header = b"\x93NUMPY\x02\x00" + (1 << 30).to_bytes(4, "little") + b" " * (1 << 20)
    refused(archive(tmp_path / "a.npz", header, packed=zipfile.ZIP_DEFLATED), "its .npy header has 1073741824 bytes")
    refused(archive(tmp_path / "b.npz", npy("(4, 8, 8, 1)", bytes(256), version=9)), "its .npy version 9.0 is not known")


@pytest.mark.parametrize("packed", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_every_way_to_pack_is_read(tmp_path, packed):
    path = archive(tmp_path / "a.npz", npy("(7, 4, 3)", ARRAY.tobytes()), packed=packed)
    np.testing.assert_array_equal(open_array(path, "arr_0"), ARRAY)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_few_bytes_that_unpack_to_much_are_refused_in_little_memory(tmp_path, packed):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", packed) as file, file.open("arr_0.npy", "w", force_zip64=True) as member:
        member.write(npy(f"({9 << 19}, 8, 8, 1)", bytes(1 << 20)))
        for _ in range(287):
            member.write(bytes(1 << 20))
    assert os.path.getsize(tmp_path / "a.npz") < 2 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(str(tmp_path / "a.npz"), "arr_0.npy unpacks from .* to 288 MiB, which images do not")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_statistics_that_are_bombs_or_objects_are_refused(tmp_path):
    for name, content in (("objects", npy("(4,)", b"cos\nsystem", "'|O'")), ("large", npy("(9000000000,)", b"1"))):
        with zipfile.ZipFile(tmp_path / f"{name}.npz", "w") as file:
            file.writestr("mu.npy", content)
            file.writestr("sigma.npy", npy("(1, 1)", bytes(8), "'<f8'"))
        with pytest.raises(UserError, match=f"{name}.npz: mu.npy (holds Python objects|is uint8)"):
            open_reference(str(tmp_path / f"{name}.npz"), 8, 1)


@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_encrypted_archives_are_refused(tmp_path, packed):
    path = archive(tmp_path / "a.npz", npy("(4, 8, 8, 1)", bytes(range(256))), packed=packed)
    content = bytearray(Path(path).read_bytes())
    content[6] |= 1  # the flag in the local header, and in the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    Path(path).write_bytes(content)
    refused(path, "arr_0.npy is encrypted")


def test_packing_that_python_does_not_know(tmp_path):
    path = archive(tmp_path / "a.npz", npy("(4, 8, 8, 1)", bytes(range(256))))
    content = bytearray(Path(path).read_bytes())
    for place in (8, content.index(b"PK\x01\x02") + 10):
        content[place:place + 2] = (93).to_bytes(2, "little")
    Path(path).write_bytes(content)
    refused(path, "not an .npz file, or a damaged one .That compression method is not supported")


def test_an_array_that_is_there_twice(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("arr_0.npy", npy("(4, 8, 8, 1)", bytes(256)))
        file.writestr("arr_0.npy", npy("(4, 8, 8, 1)", bytes(range(256))))
    refused(str(tmp_path / "a.npz"), "arr_0.npy is there 2 times; which is meant")


def test_a_changed_byte_of_an_array_in_place_is_found(tmp_path):
    path = archive(tmp_path / "a.npz", npy("(4, 8, 8, 1)", bytes(range(256))))
    content = bytearray(Path(path).read_bytes())
    content[content.index(bytes(range(256))) + 9] ^= 1
    Path(path).write_bytes(content)
    refused(path, "damaged")


def test_an_array_that_was_never_written(tmp_path):
    """A sparse file: 60 GB in the archive's words, nothing on the disk."""
    count = 10 ** 9
    path = archive(tmp_path / "a.npz", npy(f"({count}, 8, 8, 1)", b""))
    content = Path(path).read_bytes()
    directory, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    size = 64 * count
    extra = struct.pack("<HHQQ", 1, 16, size + directory - 39, size + directory - 39)
    entry = bytearray(content[directory:end])
    entry[20:28], entry[30:32] = b"\xff" * 8, len(extra).to_bytes(2, "little")
    with open(path, "r+b") as file:
        file.truncate(directory)
        file.seek(directory + size)
        file.write(bytes(entry) + extra)
        place = directory + size
        length = len(entry) + len(extra)
        file.write(struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, length, place))
        file.write(struct.pack("<4sIQI", b"PK\x06\x07", 0, place + length, 1))
        file.write(struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, length, 0xffffffff, 0))
    with pytest.raises(UserError, match="but most of it was never written"):
        open_images(path)


def test_names_of_members_cannot_steer_the_terminal(tmp_path):
    refused(archive(tmp_path / "a.npz", b"x", name="\x1b[31mred.npy"), r"\\x1b\[31mred")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as file:
        for number in range(300):
            file.writestr(f"{number}{'x' * 500}.npy", b"")
    refused(str(tmp_path / "b.npz"), "and more")


def test_bytes_damaged_anywhere_give_images_or_a_sentence(tmp_path):
    for packed in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        whole = Path(archive(tmp_path / "a.npz", npy("(4, 8, 8, 1)", bytes(range(256))), packed=packed)).read_bytes()
        for place in range(0, len(whole), 3):
            (tmp_path / "cut.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 0xff]) + whole[place + 1:])
            for use in (lambda: open_images(str(tmp_path / "cut.npz")).images[0:4],
                        lambda: import_npz(tmp_path / "cut.npz", Writer(tmp_path / "out.h5"))):
                try:
                    use()
                except UserError as error:
                    assert str(error).isprintable()


@pytest.mark.slow
@pytest.mark.parametrize("command", [["data", "npz", "a.npz", "out.h5"], ["score", "a.npz", "--reference", "a.npz"],
                                     ["score", "digits", "--reference", "a.npz"]])
def test_the_commands_end_with_status_2_and_one_sentence(tmp_path, command):
    archive(tmp_path / "a.npz", npy("(10000000000, 8, 8, 1)", bytes(256)))
    done = subprocess.run([sys.executable, "-m", "slurm.cli.main", *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "640000000000 bytes" in done.stderr
    assert os.listdir(tmp_path) == ["a.npz"]
