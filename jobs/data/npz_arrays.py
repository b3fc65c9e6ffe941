"""Arrays inside .npz files, which anybody may have made: nothing is read before its size, type and packing are known."""

import io
import lzma
import math
import mmap
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from jobs.errors import UserError
from jobs.storage.datasets import bomb, holes, no_memory
from jobs.storage.names import listed, reason, shortened
from jobs.terminal import printable

UNREADABLE = (OSError, ValueError, KeyError, EOFError, OverflowError, MemoryError, RuntimeError, TypeError, SyntaxError,
              zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error)
"""What Python raises for an archive that is damaged, encrypted, or no archive."""
_LONGEST_HEADER = 10_000  # bytes, as numpy has it
_MOST_AXES = 32
_CHECKED = 2 << 30  # bytes of an array in place that are compared with the archive's checksum
_BLOCK = 16 << 20


@dataclass(frozen=True)
class ArrayHeader:
    """What an .npy header says; the array's bytes follow the header."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool

    @property
    def bytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return shortened(f"{self.dtype} {list(self.shape)}")


def read_header(stream: IO[bytes]) -> ArrayHeader:
    """Read the header of an .npy file and leave `stream` at the array's first byte. Raises ValueError if it is damaged."""
    start = stream.read(8)
    version = np.lib.format.read_magic(io.BytesIO(start))
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"its .npy version {version[0]}.{version[1]} is not known")
    packed = stream.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(packed, "little")
    if length > _LONGEST_HEADER:  # numpy would read all of it first
        raise ValueError(f"its .npy header has {length} bytes")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran_order, dtype = read(io.BytesIO(packed + stream.read(length)))
    except Exception as error:  # what parses the header raises any exception
        raise ValueError(f"its .npy header is damaged ({reason(error)})") from error
    if len(shape) > _MOST_AXES or any(isinstance(length, bool) or not 0 <= length < 1 << 63 for length in shape):
        raise ValueError(f"its shape is {shortened(str(list(shape)))}")
    return ArrayHeader(shape, dtype, fortran_order)


class Npz:
    """An open .npz file. `names` of its arrays, in their order; `where(name)` begins a message about one."""

    def __init__(self, path: str | Path, archive: zipfile.ZipFile):
        self.path, self._archive = path, archive
        self.names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        self._counted = Counter(archive.namelist())

    def where(self, name: str) -> str:
        return f"{self.path}: {printable(name)}.npy"

    def held(self) -> str:
        """The names of all members, in words."""
        return listed(self._archive.namelist())

    @contextmanager
    def stream(self, name: str) -> Iterator[tuple[ArrayHeader, IO[bytes]]]:
        """The header of the array `name`, and a stream of its bytes.

        Raises UserError where the array cannot be read in bounded time, or its header does not fit its size.
        """
        member = self._member(name)
        if member.compress_type != zipfile.ZIP_STORED and (problem := bomb(member.file_size, member.compress_size)):
            raise UserError(f"{self.where(name)} {problem}")
        with self._archive.open(member) as stream:
            header = read_header(stream)
            self._check_size(name, header, member.file_size - stream.tell())
            yield header, stream

    def header(self, name: str) -> ArrayHeader:
        """The header of the array `name`. Raises UserError as `stream` does."""
        with self.stream(name) as (header, _):
            return header

    def read(self, name: str) -> np.ndarray:
        """The array `name`, in memory. Raises UserError as `stream` does, or if it is damaged or does not fit."""
        with self.stream(name) as (header, stream):
            if header.dtype.hasobject:
                raise UserError(f"{self.where(name)} holds Python objects, which are not read: they may run any program")
            if problem := no_memory(header.bytes):
                raise UserError(f"{self.where(name)} {problem}; numpy.savez, which packs nothing, makes a file that needs none")
            content = stream.read()  # to the end, where zipfile compares the checksum
            if len(content) != header.bytes:
                raise UserError(f"{self.where(name)} is damaged: it ends after {len(content)} of {header.bytes} bytes")
            flat = np.frombuffer(content, header.dtype) if header.bytes else np.zeros(math.prod(header.shape), header.dtype)
            return flat.reshape(header.shape, order="F" if header.fortran_order else "C")

    def array(self, name: str) -> np.ndarray:
        """The array `name`: a read-only memory map if stored uncompressed (numpy.savez), else as `read` gives it."""
        member, header = self._member(name), self.header(name)
        if member.compress_type != zipfile.ZIP_STORED or not header.bytes or header.dtype.hasobject:
            return self.read(name)
        with open(self.path, "rb") as file:
            # Zip's APPNOTE.TXT 4.3.7: a signature, 30 bytes in all, of which the last four are the lengths of the name and of
            # the extra field.
            file.seek(member.header_offset)
            local = file.read(30)
            if len(local) < 30 or local[:4] != b"PK\x03\x04":
                raise UserError(f"{self.where(name)} is not where the archive says; the file is damaged")
            name_length, extra_length = struct.unpack("<HH", local[26:])
            start = member.header_offset + 30 + name_length + extra_length
            if sum(holes(str(self.path), start, start + member.file_size)) > member.file_size / 2:
                raise UserError(f"{self.where(name)} is {header}, but most of it was never written; it would be read as zeros")
            file.seek(start)
            if read_header(file) != header or not _is_whole(file, start, member):
                raise UserError(f"{self.where(name)} is damaged: its checksum is not the recorded one")
            file.seek(start + member.file_size - header.bytes)
            return np.memmap(self.path, header.dtype, "r", file.tell(), header.shape, order="F" if header.fortran_order else "C")

    def _member(self, name: str) -> zipfile.ZipInfo:
        member = self._archive.getinfo(f"{name}.npy")
        if self._counted[member.filename] > 1:
            raise UserError(f"{self.where(name)} is there {self._counted[member.filename]} times; which is meant?")
        if member.flag_bits & 1:
            raise UserError(f"{self.where(name)} is encrypted; unpack the archive with its password, and pack it without one")
        return member

    def _check_size(self, name: str, header: ArrayHeader, size: int) -> None:
        if not header.dtype.hasobject and header.bytes != size:
            raise UserError(f"{self.where(name)} is {header}, which is {shortened(str(header.bytes))} bytes, but holds {size}; "
                            "the file is damaged")


def _is_whole(file: IO[bytes], start: int, member: zipfile.ZipInfo) -> bool:
    """Whether the bytes of a stored member have the checksum of the archive; too many bytes are not looked at."""
    if member.file_size > _CHECKED:
        return True
    if start + member.file_size > file.seek(0, io.SEEK_END):
        return False
    found = 0
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
        for place in range(start, start + member.file_size, _BLOCK):
            with view[place:min(place + _BLOCK, start + member.file_size)] as block:
                found = zlib.crc32(block, found)
    return found == member.CRC


@contextmanager
def open_npz(path: str | Path) -> Iterator[Npz]:
    """The .npz file `path`. Raises UserError that names it if it is missing or damaged, now or while it is used."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            yield Npz(path, archive)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except PermissionError as error:
        raise UserError(f"{path}: not readable (permission denied)") from error
    except UNREADABLE as error:
        raise UserError(f"{path}: not an .npz file, or a damaged one ({reason(error)})") from error
