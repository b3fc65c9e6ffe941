"""Judge the datasets of HDF5 files before they are read: HDF5 gives zeros for all that is missing, and says nothing.

A dataset of another program may be a link into another file, be stitched together from other files (virtual), lie in raw files
(external), be compressed with a filter that is not installed here, or be created and never written.
"""

import errno
import math
import os
import resource
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import h5py
import numpy as np

from jobs.errors import UserError
from jobs.quantities import size
from jobs.storage.names import listed, reason
from jobs.storage.opening import UNREADABLE, open_hdf5
from jobs.terminal import printable

_SMALL = 256 << 20  # bytes that are unpacked without a question
_DENSEST = 100  # times that images may be packed; deflate packs zeros 1030 times
_MOST_PIECES = 10_000  # pieces of a sparse file that are looked at
_SPARE_FILES = 16  # for logs, and what else a process opens meanwhile
_DEEPEST = 8  # virtual datasets of virtual datasets


@dataclass(frozen=True)
class Found:
    """A dataset all of whose values are stored. `where` names it in messages; `files` hold its values."""

    where: str
    dataset: h5py.Dataset
    files: frozenset[str]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.dataset.shape

    @property
    def dtype(self) -> np.dtype:
        return self.dataset.dtype

    def read(self) -> np.ndarray:
        """All values. Raises UserError where they are damaged, or do not fit in memory."""
        if problem := no_memory(self.dataset.nbytes):
            raise UserError(f"{self.where} {problem}; `h5repack -l CONTI -f NONE` stores it in one piece, which needs none")
        try:
            return self.dataset[...]
        except UNREADABLE as error:
            raise UserError(f"{self.where} cannot be read, the file is damaged ({reason(error)})") from error

    def mapped(self) -> np.ndarray | None:
        """A read-only memory map of plain bytes in one piece; None for every other storage."""
        dataset = self.dataset
        plain = dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS and not dataset.external
        if not plain or not dataset.id.get_type().equal(h5py.h5t.NATIVE_UINT8) or not dataset.size:
            return None
        try:
            found = np.memmap(dataset.file.filename, np.uint8, "r", dataset.id.get_offset(), dataset.shape)
        except ValueError as error:
            raise UserError(f"{self.where}: the file is damaged: it ends before its last value") from error
        same = all(np.array_equal(found[row], dataset[row]) for row in (0, len(found) - 1))
        return found if same else None


def find(path: str | os.PathLike[str], file: h5py.File, name: str) -> Found | None:
    """The dataset `name` of `file`, which is `path`; None if the file has none. The values are not read.

    Raises UserError where `name` is a link to nothing or no dataset, or where values are missing or would not be read right.
    """
    where = f"{path}: /{name}"
    link = file.get(name, getlink=True)
    if link is None:
        return None
    found = _opened(where, file, name, _words_of(link))
    files = _Files(where, found)
    files.check(found, where, ())
    if problem := _too_many(len(files.names)):
        raise UserError(f"{where} is made of {problem}; HDF5 would give zeros for the others")
    return Found(where, found, frozenset(files.names))


def bomb(unpacked: int, packed: int) -> str | None:
    """The reason why this many bytes are not unpacked, or None: a small file must not fill memory or disk."""
    if unpacked <= max(_SMALL, _DENSEST * packed):
        return None
    return f"unpacks from {size(packed)} to {size(unpacked)}, which images do not"


def no_memory(needed: int) -> str | None:
    """The reason why this many bytes cannot be held in memory, or None."""
    return None if needed <= (free := _memory()) else f"needs {size(needed)} of memory, where {size(free)} are free"


def _memory() -> int:
    """Bytes of memory that Linux can give to new data; a huge number where Linux does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return 1 << 62


def _too_many(files: int) -> str | None:
    """The reason why this process cannot have this many files open at once, as HDF5 will, or None."""
    most, others = resource.getrlimit(resource.RLIMIT_NOFILE)[0], len(os.listdir("/dev/fd"))
    if most == resource.RLIM_INFINITY or files + others + _SPARE_FILES <= most:
        return None
    return f"{files} files, and this process may have {most} open (`ulimit -n`)"


def _words_of(link: object) -> str:
    """The words that say what kind of link it is, "" for a plain member of the file."""
    if isinstance(link, h5py.ExternalLink):
        return f" is a link to {printable(link.path)} in {printable(link.filename)}, which"
    return f" is a link to {printable(link.path)}, which" if isinstance(link, h5py.SoftLink) else ""


def _opened(where: str, group: h5py.Group, name: str, words: str) -> h5py.Dataset:
    try:
        found = group[name]
        if isinstance(found, h5py.Dataset):
            _ = found.dtype  # raises TypeError where numpy has no such type
            return found
    except UNREADABLE as error:
        raise UserError(f"{where}{words} cannot be opened ({reason(error)})") from error
    kind = {h5py.Group: "group", h5py.Datatype: "type"}.get(type(found), "thing of another kind")
    raise UserError(f"{where}{words} is a {kind}; a dataset of numbers is needed there")


@dataclass
class _Files:
    """Checks that all values of a dataset are stored, and gathers in `names` the files that hold them."""

    where: str
    dataset: h5py.Dataset
    names: set[str] = field(default_factory=set)
    checked: set[tuple[str, int]] = field(default_factory=set)
    """Virtual datasets that are known to be whole: file and place."""

    def check(self, dataset: h5py.Dataset, where: str, inside: tuple[tuple[str, int], ...]) -> None:
        """Raise UserError if a value is missing. `inside`: the virtual datasets that lead here."""
        own = os.path.realpath(dataset.file.filename)
        self.names.add(own)
        if dataset.shape is None or not dataset.size:
            return
        if dataset.is_virtual:
            key = (own, h5py.h5o.get_info(dataset.id).addr)
            if key in inside or len(inside) >= _DEEPEST:
                raise UserError(f"{where} is a virtual dataset that is made of itself, or {_DEEPEST} times of another")
            if key not in self.checked:  # or the time would double with each level
                self._check_sources(dataset, where, (*inside, key))
                self.checked.add(key)
        elif dataset.external:
            self._check_raw_files(dataset, where)
        else:
            _check_filters(dataset, where)
            _check_written(dataset, where)

    def _check_sources(self, dataset: h5py.Dataset, where: str, inside: tuple[tuple[str, int], ...]) -> None:
        covered = 0
        for source in dataset.virtual_sources():
            if "%b" in source.file_name + source.dset_name:
                raise UserError(f"{where} is a virtual dataset of numbered files, which may be missing unnoticed; "
                                "copy it into one dataset")
            name = source.file_name.replace("%%", "%")
            words = f" is a virtual dataset of {printable(source.dset_name)} in {printable(name)}, which"
            # One file at a time: there may be more of them than a process may have open.
            with nullcontext(dataset.file) if name == "." else self._source_file(dataset, name, f"{where}{words}") as file:
                found = _opened(where, file, source.dset_name.replace("%%", "%"), words)
                if not _holds(found, source.src_space, source.vspace):
                    raise UserError(f"{where}{words} has another shape than when the virtual dataset was made")
                self.check(found, f"{where}{words}", inside)
            covered += source.vspace.get_select_npoints()
        if covered < dataset.size:
            raise UserError(f"{where} is a virtual dataset, and {dataset.size - covered} of its {dataset.size} values have no "
                            "source; HDF5 would give zeros")

    def _source_file(self, dataset: h5py.Dataset, name: str, where: str) -> h5py.File:
        """Open a source where HDF5 looks for one. Raises UserError if there is none."""
        own = dataset.file.filename
        folders = [os.path.dirname(os.path.abspath(own)), os.getcwd(), os.path.dirname(os.path.realpath(own))]
        if prefix := os.environ.get("HDF5_VDS_PREFIX"):
            folders.insert(0, prefix.replace("${ORIGIN}", folders[0]))
        places = [os.path.join(folder, name) for folder in folders]
        if os.path.isabs(name):
            places.append(os.path.join(folders[-1], os.path.basename(name)))
        path = next((place for place in places if os.path.exists(place)), None)
        if path is None:
            raise UserError(f"{where} is missing; HDF5 would give zeros")
        try:
            return open_hdf5(path)
        except UNREADABLE as error:
            raise UserError(f"{where} cannot be opened ({reason(error)})") from error

    def _check_raw_files(self, dataset: h5py.Dataset, where: str) -> None:
        prefix = os.environ.get("HDF5_EXTFILE_PREFIX", "")
        prefix = prefix.replace("${ORIGIN}", os.path.dirname(os.path.abspath(dataset.file.filename)))
        held = 0
        for name, offset, most in dataset.external:
            path = os.path.realpath(os.path.join(prefix, name))
            if not os.path.isfile(path):
                raise UserError(f"{where} lies in the raw file {printable(path)}, which is missing")
            self.names.add(path)
            found = os.path.getsize(path) - offset
            if most != h5py.h5f.UNLIMITED and found < most:
                raise UserError(f"{where} lies in the raw file {printable(name)}, which is too short; HDF5 would give zeros")
            held += min(found, most)
        if held < dataset.nbytes:
            raise UserError(f"{where} lies in raw files ({listed(name for name, _, _ in dataset.external)}), which hold "
                            f"{held} of its {dataset.nbytes} bytes; HDF5 would give zeros")


def _holds(found: h5py.Dataset, taken: h5py.h5s.SpaceID, given: h5py.h5s.SpaceID) -> bool:
    """Whether the dataset `found` has all that is `taken` of it for the places `given`."""
    if taken.get_select_type() == h5py.h5s.SEL_ALL:
        return found.size == given.get_select_npoints()
    _, last = taken.get_select_bounds()
    return len(last) == len(found.shape) and all(end < length for end, length in zip(last, found.shape, strict=True))


def _check_filters(dataset: h5py.Dataset, where: str) -> None:
    """Raise UserError if the dataset is packed with a filter that is not here, or unpacks to more than images do."""
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(number) for number in range(plist.get_nfilters())]
    for code, _, _, name in filters:
        if not h5py.h5z.filter_avail(code):
            named = printable(name.decode(errors="replace")) or "without a name"
            raise UserError(f"{where} is packed with the filter {named} ({code}), "
                            "which this HDF5 does not have; `h5repack -f GZIP=4` packs it anew where the filter is installed")
    if filters:
        unpacked = dataset.id.get_num_chunks() * math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
        if problem := bomb(unpacked, dataset.id.get_storage_size()):
            raise UserError(f"{where} {problem}")


def _check_written(dataset: h5py.Dataset, where: str) -> None:
    """Raise UserError if a part of the dataset was never written: HDF5 would give its fill value, mostly zero."""
    if dataset.chunks is not None:
        chunks = math.prod(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        written = dataset.id.get_num_chunks()
        if written < chunks:
            raise UserError(f"{where} has shape {list(dataset.shape)}, but {chunks - written} of its {chunks} chunks were never "
                            "written; HDF5 would give zeros")
        return
    if not dataset.id.get_storage_size():
        raise UserError(f"{where} has shape {list(dataset.shape)}, but was never written; HDF5 would give zeros")
    offset = dataset.id.get_offset()
    if offset is None:
        return  # compact: the values lie beside the shape
    unwritten = sum(holes(dataset.file.filename, offset, offset + dataset.nbytes))
    if unwritten > dataset.nbytes / 2:
        raise UserError(f"{where} has shape {list(dataset.shape)}, but {size(unwritten)} of its {size(dataset.nbytes)} were "
                        "never written; they would be read as zeros")


def holes(path: str, position: int, end: int) -> Iterator[int]:
    """Sizes of the parts of a file between `position` and `end` that the file system does not store."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for _ in range(_MOST_PIECES):
            if position >= end:
                return
            data = os.lseek(descriptor, position, os.SEEK_DATA)
            yield max(0, min(data, end) - position)
            position = os.lseek(descriptor, data, os.SEEK_HOLE)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data after this position
            yield max(0, min(end, os.fstat(descriptor).st_size) - position)
    finally:
        os.close(descriptor)
