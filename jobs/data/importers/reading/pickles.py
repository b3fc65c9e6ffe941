"""Read pickles of plain data and arrays, which anybody may have made: no code runs, and no library sees the file's own states.

numpy is not given what the pickle says of an array: numpy.dtype takes any state, also one that makes the process crash later.
"""

import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from jobs.storage.names import shortened

_MOST_READS = 5_000_000  # of opcodes and what follows them; CIFAR-100's training file needs 600,000
_OPCODES = (
    pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT,
    pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINBYTES,
    pickle.SHORT_BINBYTES, pickle.BINBYTES8, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.EMPTY_LIST, pickle.APPEND,
    pickle.APPENDS, pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1,
    pickle.TUPLE2, pickle.TUPLE3, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET,
    pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD)
_NAMES = {np.dtype(name).str[1:]: name for name in ("uint8", "int8", "int32", "int64", "float32", "float64", "bool")}


class _Dtype:
    """Stands for numpy.dtype. Only the name that the array was pickled with counts, such as u1."""

    def __init__(self, name: object = None, *_: object):
        self.name = name.decode("ascii", "replace") if isinstance(name, bytes) else name

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and others, which unsigned bytes have not."""


class PickledArray:
    """Stands for an array. `str()` describes it."""

    def __init__(self, *_: object):
        self._shape: tuple[int, ...] = ()
        self._type, self._is_fortran, self._content = "", False, b""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, self._is_fortran, content = state
        if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape[:32]) or \
                len(shape) > 32 or not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("it has an array without shape, type or values")
        self._shape, self._type, self._content = shape, str(dtype.name), content

    def __str__(self) -> str:
        return shortened(f"{_NAMES.get(self._type, self._type)} {list(self._shape)}") if self._type else "an array without values"

    def as_bytes(self) -> np.ndarray | None:
        """The array, if it is of unsigned bytes and all values are there: uint8, read-only, of the pickled shape."""
        if self._type not in ("u1", "|u1") or math.prod(self._shape) != len(self._content):
            return None
        return np.frombuffer(self._content, np.uint8).reshape(self._shape, order="F" if self._is_fortran else "C")


class _ByText(dict[Any, Any]):
    """A dictionary whose keys are text: tuples in tuples, each twice, take for ever to hash."""

    __slots__ = ()  # or a pickle could give it attributes

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, bytes | str):
            raise pickle.UnpicklingError("it has a key that is no text")
        super().__setitem__(key, value)


class _Counted(io.BytesIO):
    """Refuses a file of very many opcodes: each may make an object, of sixty times its size."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _MOST_READS:
            raise pickle.UnpicklingError(f"it has more than {_MOST_READS:,} parts, which no image data needs")
        return super().read(size)


class _Dispatch(dict[int, Callable[[Any], None]]):
    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise pickle.UnpicklingError(f"it has the opcode {bytes([code])!r}, which no image data needs")


class _ArrayUnpickler(pickle._Unpickler):
    """Finds only what a pickled array consists of. In Python: the C one makes a table as long as any number in the file says."""

    _STANDS_FOR = {("numpy.core.multiarray", "_reconstruct"): PickledArray, ("numpy", "ndarray"): PickledArray,
                   ("numpy._core.multiarray", "_reconstruct"): PickledArray, ("numpy", "dtype"): _Dtype}
    dispatch = _Dispatch({code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES})

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._STANDS_FOR:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no image data needs")
        return self._STANDS_FOR[module, name]

    def load_empty_dictionary(self) -> None:
        self.append(_ByText())  # type: ignore[attr-defined]  # typeshed has only the public methods

    dispatch[pickle.EMPTY_DICT[0]] = load_empty_dictionary


def read_pickle(content: bytes) -> Any:
    """The value: lists, dictionaries with keys of text, numbers, bytes for the text of Python 2, and a PickledArray for an array.

    Raises any exception for damaged bytes, and pickle.UnpicklingError for what no image data needs.
    """
    return _ArrayUnpickler(_Counted(content), encoding="bytes").load()
