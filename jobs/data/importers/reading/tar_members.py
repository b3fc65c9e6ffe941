"""Read tar archives that anybody may have made: forward only, in constant memory, and nothing is ever unpacked to the disk.

Python's tarfile holds the long names and the extended headers that a member claims to have, of any size, and goes back and
forth, which unpacks an archive in gzip again and again. Here headers are parsed by tarfile, and read here.
"""

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from jobs.errors import UserError
from jobs.storage.datasets import bomb
from jobs.storage.disk_errors import why_missing
from jobs.storage.names import reason
from jobs.terminal import printable

MOST_BYTES = 256 << 20  # of an encoded image
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_BLOCK, _CHUNK = 512, 1 << 20  # bytes of tar's unit, and of a read
_MOST_HEADER = 1 << 20  # bytes of a long name or an extended header
_MOST_PADDING = 64 << 20  # bytes of zeros between members
_NOT_FILES = {tarfile.LNKTYPE: "a hard link", tarfile.SYMTYPE: "a link", tarfile.CHRTYPE: "a device",
              tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a named pipe", tarfile.GNUTYPE_SPARSE: "a sparse file"}
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, ValueError, OverflowError, MemoryError)


class Member:
    """One file of an archive. `problem` says why it has no content that can be used, or is "". Read it before the next one."""

    def __init__(self, name: str, size: int, problem: str, stream: "_Forward"):
        self.name, self.size, self.problem = name, size, problem
        self._stream, self._left = stream, size

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, or all that are left, of which there must be at most MOST_BYTES."""
        wanted = self._left if size < 0 else min(size, self._left)
        if wanted > MOST_BYTES:
            raise ValueError(f"{printable(self.name)} has {self.size:,} bytes")
        self._left -= wanted
        return self._stream.exactly(wanted)

    def image(self) -> tuple[bytes, str]:
        """All content and "", or b"" and the reason why it is no encoded image."""
        problem = self.problem or (f"{self.size:,} bytes, more than an image has" if self.size > MOST_BYTES else "")
        return b"" if problem else self.read(), problem

    def skip(self) -> None:
        """Go to the end of the member, and of the zeros that fill its last block."""
        self._stream.skip(self._left + -self.size % _BLOCK)
        self._left = 0


@contextmanager
def open_tar(path: Path, most: int | None = None) -> Iterator[Iterator[Member]]:
    """The files of the archive `path`: tar, or tar in gzip, bzip2 or xz.

    Raises UserError, now or later, if it is damaged, or if it has more than `most` bytes when it is unpacked.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as packed:
            if not path.is_file():  # not a pipe, which would wait for its writer
                raise UserError(f"{path}: not a regular file")
            with _unpacked(packed) as unpacked:
                yield members(_Forward(unpacked, packed, most))
    except FileNotFoundError as error:
        raise UserError(why_missing(path) or f"{path}: no such file") from error
    except PermissionError as error:
        raise UserError(f"{path}: not readable (permission denied)") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: a folder, not a tar archive") from error
    except _UNREADABLE as error:
        raise UserError(f"{path}: not a whole tar archive ({reason(error)}); fetch it again") from error


def members(stream: "_Forward | Member") -> Iterator[Member]:
    """The files of the archive in `stream`, which may be a member of another. Folders are left out."""
    forward = stream if isinstance(stream, _Forward) else _Forward(stream)
    long_name, extended, padding, first = "", dict[str, str](), 0, True
    while header := forward.up_to(_BLOCK):
        if len(header) < _BLOCK:
            raise ValueError("it ends in the middle of a header")
        if not header.strip(b"\0"):
            padding += _BLOCK
            if padding > _MOST_PADDING:
                raise ValueError(f"more than {_MOST_PADDING >> 20} MiB of zeros between its members")
            continue
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ValueError("it does not begin as one" if first else f"damaged header ({reason(error)})") from error
        first, padding = False, 0
        if info.size < 0:
            raise ValueError("a member has a negative size")
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
                         tarfile.SOLARIS_XHDTYPE):
            content = _header_content(forward, info.size)
            if info.type == tarfile.GNUTYPE_LONGNAME:
                long_name = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                extended = _extended(content)
            continue
        if info.type == tarfile.GNUTYPE_SPARSE:
            _skip_sparse_headers(forward, header)
        yield from _member(forward, info, long_name, extended)
        long_name, extended = "", {}
    if first and not padding:
        raise EOFError("it is empty")


def _member(forward: "_Forward", info: tarfile.TarInfo, long_name: str, extended: dict[str, str]) -> Iterator[Member]:
    """The member that `info` begins, unless it is a folder; then go to its end."""
    size = _whole_number(extended["size"]) if "size" in extended else info.size
    problem = _NOT_FILES.get(info.type, "")
    if any(key.startswith("GNU.sparse.") for key in extended):
        problem = _NOT_FILES[tarfile.GNUTYPE_SPARSE]
    # Links and devices have no content, whatever their header says (POSIX, pax: the size of a link is that of no data here).
    has_content = info.type not in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
                                    tarfile.DIRTYPE)
    name = extended.get("GNU.sparse.name") or extended.get("path") or long_name or info.name
    member = Member(name, size if has_content else 0, problem and f"{problem}, not a file", forward)
    if info.type != tarfile.DIRTYPE:
        yield member
    member.skip()


def _header_content(forward: "_Forward", size: int) -> bytes:
    if size > _MOST_HEADER:
        raise ValueError(f"a long name or an extended header of {size:,} bytes")
    content = forward.exactly(size)
    forward.skip(-size % _BLOCK)
    return content


def _extended(content: bytes) -> dict[str, str]:
    """The records "LENGTH KEY=VALUE\\n" of a pax header (POSIX.1-2001, pax, Extended Header)."""
    found = {}
    while content.strip(b"\0"):
        length = _whole_number(content.split(b" ", 1)[0].decode("ascii", "replace"))
        record = content[:length]
        if length < 5 or len(record) < length or not record.endswith(b"\n") or b"=" not in record:
            raise ValueError("a damaged extended header")
        key, value = record.split(b" ", 1)[1][:-1].split(b"=", 1)
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        content = content[length:]
    return found


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError("a damaged extended header")
    return int(text)


def _skip_sparse_headers(forward: "_Forward", header: bytes) -> None:
    """Skip the further headers of a sparse file in GNU's old format: byte 482, and byte 504 of each, say whether one follows."""
    follows = header[482]
    while follows:
        follows = forward.exactly(_BLOCK)[504]


class _Forward:
    """Reads a stream forward, and counts: a small packed file must not fill memory or take for ever."""

    def __init__(self, stream: Any, packed: IO[bytes] | None = None, most: int | None = None):
        self._stream, self._packed, self._most, self._unpacked = stream, packed, most, 0

    def up_to(self, size: int) -> bytes:
        """The next `size` bytes, or fewer at the end."""
        parts = []
        while size and (part := self._stream.read(min(size, _CHUNK))):
            parts.append(part)
            size -= len(part)
            self._unpacked += len(part)
        if self._most is not None and self._unpacked > self._most:
            raise ValueError(f"it unpacks to more than {self._most >> 20} MiB")
        if self._packed and (problem := bomb(self._unpacked, self._packed.tell())):
            raise ValueError(f"it {problem}")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes. Raises EOFError if there are fewer."""
        content = self.up_to(size)
        if len(content) != size:
            raise EOFError("it ends in the middle of a file")
        return content

    def skip(self, size: int) -> None:
        """Go forward; in a plain file without reading. Raises EOFError if the stream ends before."""
        if self._packed is self._stream and self._packed and size > _CHUNK:
            end = self._packed.tell() + size
            if end > os.fstat(self._packed.fileno()).st_size:
                raise EOFError("it ends in the middle of a file")
            self._packed.seek(end)
            self._unpacked += size
            return
        while size > 0:
            self.exactly(min(size, _CHUNK))
            size -= min(size, _CHUNK)


@contextmanager
def _unpacked(packed: IO[bytes]) -> Iterator[Any]:
    """The stream that is packed in a file, with gzip, bzip2, xz or not at all."""
    start = packed.read(6)
    packed.seek(0)
    if start.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=packed) as stream:
            yield stream
    elif start.startswith(b"BZh"):
        with bz2.BZ2File(packed) as stream:
            yield stream
    elif start.startswith(b"\xfd7zXZ\0"):
        with lzma.LZMAFile(packed) as stream:
            yield stream
    else:
        yield packed
