"""Make a data set from a stream of encoded images (JPEG, PNG ...): decode, resize, crop, label, and leave out or refuse.

An importer of such a source yields a Record for each image, in the order of the data set, and returns `import_records`.
"""

import os
import unicodedata
import warnings
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Literal, TypeAlias

import numpy as np

from jobs.data.image_files import Decoded, Done, decode_image, in_words
from jobs.data.importers.writer import Summary, Writer, blocks_of
from jobs.errors import UserError
from jobs.quantities import plural
from jobs.storage.names import listed, shortened
from jobs.terminal import printable

_BLOCK, _BLOCK_BYTES = 256, 64 << 20  # images, and their bytes decoded or encoded, in memory at a time
_MOST_CLASSES = 100_000
_NAMED = 10  # unusable images named in an error

OnError = Literal["refuse", "skip"]


@dataclass(frozen=True)
class Record:
    """One encoded image. `name` tells a person where it is in the source; `content` is a file's bytes, or where the file is."""

    name: str
    content: bytes | Path
    label: str | int | None = None
    """The name of its class, or the id from 0."""
    problem: str = ""
    """Why the importer cannot use the image, where it cannot; then `content` is not looked at."""


Decode: TypeAlias = Callable[[bytes | Path, int], Decoded | str]
"""Decodes an image, grey of 16 bits as if its values had the given number of bits; or the reason why it cannot be used."""


@dataclass(frozen=True)
class Form:
    """What images become: squares of `image_size` in `channels`. If some cannot be used, `on_error` refuses all or skips them."""

    image_size: int
    channels: Literal[1, 3]
    on_error: OnError = "refuse"

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise UserError(f"image_size is {self.image_size}; it must be at least 1")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.image_size, self.image_size, self.channels

    def decode(self, content: bytes | Path, bits: int) -> Decoded | str:
        """Resize the short side and crop to the middle square."""
        return decode_image(content, self.image_size, self.channels, bits)


def import_records(records: Iterable[Record], writer: Writer, form: Form, where: str, source: str, labelled: bool,
                   class_names: Sequence[str] = (), total: int = 0, remarks: Sequence[str] = (),
                   decode: Decode | None = None) -> Summary:
    """Write the images of `records`, in their order. Memory holds a block of images, and of all images the labels.

    `where` begins messages, `source` says in the file where the images come from. If `labelled`, each record needs a label:
    ids count the `class_names`, if there are any; names get ids in the order of `class_names`, or of the alphabet, or of the
    numbers if all names are numbers. Without `class_names` all labels are names, or all are ids. `total` records are to come, 0
    if nobody knows. `remarks` come last in the summary.
    If images cannot be used, "skip" leaves them out and lists them in the summary, and "refuse" raises UserError, after all
    images have been tried, that names the first ten. The disk of the output must hold the result twice. `decode` replaces
    `form.decode`.
    """
    decode = decode or form.decode
    classes, bad, done, number = _Classes(class_names), list[tuple[str, str]](), Counter[Done](), 0
    with ExitStack() as files:
        spool = files.enter_context(writer.spool())
        deep = _Deep(files.enter_context(writer.spool()))
        for number, (record, result) in enumerate(_decode_all(records, form, decode, classes, labelled), start=1):
            if isinstance(result, str):
                bad.append((shortened(record.name), result))
            else:
                if result.bits is not None:
                    deep.add(len(classes.ids), record, result.bits)
                classes.ids.append(classes.place(record.label) if labelled else 0)
                done.update(result.done)
                spool.write(result.pixels.tobytes())
            if writer.report and (number % _BLOCK == 0 or number == total):
                writer.report(number, total)
        if not number:
            raise UserError(f"{where}: holds no images")
        if bad and (form.on_error == "refuse" or not classes.ids):
            raise UserError(_refusal(where, bad, number, form.on_error))
        deep.decode_again(decode, where, spool)
        names, label_ids, in_order = classes.ordered()
        shape = (len(label_ids), *form.shape)
        spool.seek(0)
        return replace(writer, report=None).write(
            blocks_of(spool, shape), shape, label_ids if labelled else None, names, source, bad,
            [*in_order, *([in_words(done)] if done else []), *deep.remarks(), *remarks])


def _decode_all(records: Iterable[Record], form: Form, decode: Decode, classes: "_Classes",
                labelled: bool) -> Iterator[tuple[Record, Decoded | str]]:
    """Each record with its image, or with the reason why it cannot be used."""
    def try_one(record: Record, problem: str) -> Decoded | str:
        return problem or decode(record.content, 16)

    # PIL releases Python's lock while it decodes, so threads run side by side.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for block in _blocks(records, form):
            # Classes of skipped images stay, so that one more damaged file does not renumber the others.
            problems = [record.problem or (classes.problem(record.label) if labelled else "") for record in block]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PIL warns about odd metadata
                decoded = list(threads.map(try_one, block, problems))
            yield from zip(block, decoded, strict=True)


def _blocks(records: Iterable[Record], form: Form) -> Iterator[list[Record]]:
    """The records in lists whose images, encoded and decoded, fit in memory."""
    rows = max(1, min(_BLOCK, _BLOCK_BYTES // (form.image_size ** 2 * form.channels)))
    block, held = list[Record](), 0
    for record in records:
        block.append(record)
        held += len(record.content) if isinstance(record.content, bytes) else 0
        if len(block) == rows or held >= _BLOCK_BYTES:
            yield block
            block, held = [], 0
    if block:
        yield block


@dataclass
class _Classes:
    """Gives ids to the classes of records. `ids`: of the images used so far, names by their place in `seen`."""

    names: Sequence[str]
    ids: array = field(default_factory=lambda: array("q"))
    seen: dict[str, int] = field(default_factory=dict)
    are_names: bool | None = None
    """Whether classes come as names; None before the first one, and where `names` are given, which allow both."""

    def __post_init__(self) -> None:
        self.known = len(self.names)
        self.seen = {name: place for place, name in enumerate(self.names)}

    def problem(self, label: str | int | None) -> str:
        """Note the class of a record; the reason why it cannot be one, or ""."""
        if label is None:
            return "has no label"
        if not self.known:  # a name may get the id that a number stands for
            self.are_names = isinstance(label, str) if self.are_names is None else self.are_names
            if isinstance(label, str) != self.are_names:
                kinds = ("name", "number") if isinstance(label, str) else ("number", "name")
                return f"its class {shortened(str(label))} is a {kinds[0]}, but the first class is a {kinds[1]}"
        if isinstance(label, str):
            if self.known and label not in self.seen:
                return f"its class {shortened(label)} is not among the {self.known}"
            self.seen.setdefault(label, len(self.seen))
            return "" if len(self.seen) <= max(self.known, _MOST_CLASSES) else f"has the class number {_MOST_CLASSES + 1:,}"
        most = self.known or _MOST_CLASSES
        return "" if 0 <= label < most else f"its label {shortened(str(label))} is outside 0 .. {most - 1}"

    def place(self, label: str | int | None) -> int:
        """The id of a class, in the order in which names came."""
        return self.seen[label] if isinstance(label, str) else label or 0

    def ordered(self) -> tuple[list[str], np.ndarray, list[str]]:
        """Class names by id, the images' ids int64 [N], and remarks on the order."""
        ids = np.array(self.ids, np.int64)
        if self.known or not self.seen:
            return list(self.names), ids, []
        numbers = all(name.isascii() and name.isdigit() for name in self.seen)
        names = sorted(self.seen, key=lambda name: (int(name), name)) if numbers else sorted(self.seen)
        remarks = [f"classes in the order of {'their numbers' if numbers else 'the alphabet'}: {listed(names)}"]
        alike = Counter(unicodedata.normalize("NFKC", name).casefold() for name in names)
        if twice := [name for name in names if alike[unicodedata.normalize("NFKC", name).casefold()] > 1]:
            remarks.append(f"these classes have nearly the same name, and are kept apart: {listed(twice)}")
        new = np.empty(len(names), np.int64)
        new[[self.seen[name] for name in names]] = np.arange(len(names))
        return names, new[ids], remarks


class _Deep:
    """Images of 16 bits, whose values may all need fewer: that shows at the end, and then they are decoded once more."""

    def __init__(self, kept: IO[bytes]):
        self._kept, self._bits = kept, 0
        self._records: list[tuple[int, str, Path | int]] = []  # place in the data set; name; where the encoded image is

    def add(self, place: int, record: Record, bits: int) -> None:
        self._bits = max(self._bits, bits)
        if isinstance(record.content, bytes):
            self._records.append((place, record.name, len(record.content)))
            self._kept.write(record.content)
        else:
            self._records.append((place, record.name, record.content))

    def decode_again(self, decode: Decode, where: str, spool: IO[bytes]) -> None:
        """Write the images anew to their places in the spool. Raises UserError if a file changed meanwhile."""
        if self._bits in (0, 16):
            return
        self._kept.seek(0)
        for place, name, found in self._records:
            result = decode(self._kept.read(found) if isinstance(found, int) else found, self._bits)
            if isinstance(result, str):
                raise UserError(f"{where}: {printable(name)}: changed while it was read ({result})")
            spool.seek(place * result.pixels.size)
            spool.write(result.pixels.tobytes())

    def remarks(self) -> list[str]:
        if self._bits in (0, 16):
            return []
        return [f"{plural(len(self._records), 'image')} of 16 bits: no value needs more than {self._bits}, "
                f"so {self._bits} bits were made 8"]


def _refusal(where: str, bad: list[tuple[str, str]], total: int, on_error: str) -> str:
    lines = [f"  {name}: {reason}" for name, reason in bad[:_NAMED]]
    if len(bad) > _NAMED:
        lines.append(f"  and {len(bad) - _NAMED} more")
    advice = "; mend or remove them, or leave them out with --on-error skip" if on_error == "refuse" else ""
    return "\n".join([f"{where}: {len(bad)} of {total} images cannot be used, nothing was written{advice}:", *lines])
