"""Arrays inside .npz files, read without loading the whole array."""

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np


@dataclass(frozen=True)
class ArrayHeader:
    """What an .npy header says; the array's bytes follow the header."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool


def read_header(stream: IO[bytes]) -> ArrayHeader:
    """Read the header of an .npy file and leave `stream` at the array's first byte. Raises ValueError if it is damaged."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    return ArrayHeader(shape, dtype, fortran_order)


def open_array(path: str | Path, name: str) -> np.ndarray:
    """Open the array `name` of an .npz: a read-only memory map if stored uncompressed (numpy.savez), else an array in memory.

    Raises KeyError if there is no such array, and ValueError, OSError or zipfile.BadZipFile for damaged files.
    """
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        with np.load(path) as arrays:
            return arrays[name]
    with open(path, "rb") as file:
        # Zip's APPNOTE.TXT 4.3.7: 30 bytes, of which the last four are the lengths of the name and of the extra field.
        file.seek(member.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
        file.seek(member.header_offset + 30 + name_length + extra_length)
        header = read_header(file)
        if 0 in header.shape:  # a memory map cannot be empty
            return np.zeros(header.shape, header.dtype)
        return np.memmap(path, header.dtype, "r", file.tell(), header.shape, order="F" if header.fortran_order else "C")
