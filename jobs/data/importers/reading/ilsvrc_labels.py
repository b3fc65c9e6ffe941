"""Read what ILSVRC's files say of classes: names of WordNet ids, and the class of each validation image."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from jobs.data.importers.encoded import Record
from jobs.errors import UserError
from jobs.storage.files import read_bytes
from jobs.storage.names import shortened

_MOST_LINES = 2_000_000
_WNID = re.compile(r"n[0-9]{8}")
_NUMBERED = re.compile(r"(n[0-9]{8})\s+([0-9]{1,5})\s+(.+)")
_NAMED = re.compile(r"(n[0-9]{8})(?:\s+(.+))?")
_OF_IMAGE = re.compile(r"([^\s,]+)[\s,]+(n[0-9]{8}|[0-9]{1,5})(?:\s.*)?")


class Synsets:
    """Classes by WordNet id, of lines "n01440764 tench, Tinca tinca", "n02119789 1 kit_fox", or "n01440764"."""

    def __init__(self, path: Path | None):
        self._names: dict[str, str] = {}
        self.by_number: dict[int, str] = {}
        """WordNet ids by the number that ILSVRC's development kit gives to a class."""
        for number, line in _lines(path) if path else []:
            if found := _NUMBERED.fullmatch(line):
                self.by_number[int(found[2])] = found[1]
                self._names[found[1]] = found[3].replace("_", " ")
            elif found := _NAMED.fullmatch(line):
                self._names[found[1]] = (found[2] or "").split(",")[0].strip()
            else:
                raise UserError(f"{path}: line {number} is {shortened(line, 50)}; lines are such as n01440764 tench, Tinca tinca "
                                "or n02119789 1 kit_fox")

    def named(self, wnid: str) -> str:
        """The name of the class: its WordNet id, and the word for it if there is one."""
        return f"{wnid} {shortened(self._names.get(wnid, ''), 60)}".rstrip()

    @property
    def wnids(self) -> list[str]:
        """In their order."""
        return sorted(self._names)


class Truth:
    """The class of each image by the file `path`: a line for each image, in their order or with the name of the image.

    `n01440764`: the class of the first, second ... image. `ILSVRC2012_val_00000001 n01751748 ...`, also with a comma: the class
    of that image; a number in place of the class counts the classes from 0 in the order of WordNet ids. A number alone is that
    of the development kit, which `synsets` must explain. `known`: the WordNet ids of the training data, if they are there.
    """

    def __init__(self, path: Path, synsets: Synsets, known: Sequence[str]):
        self._path, self._synsets = path, synsets
        wnids = sorted(known) or synsets.wnids
        self.classes = [synsets.named(wnid) for wnid in wnids]
        """Names of all classes, by their ids; none if only the images tell."""
        self._by_name: dict[str, str | int] = {}
        self._by_place: list[str | int] = []
        for number, line in _lines(path):
            if _WNID.fullmatch(line):
                self._by_place.append(synsets.named(line))
            elif line.isascii() and line.isdigit():
                self._by_place.append(self._of_development_kit(line, number))
            elif found := _OF_IMAGE.fullmatch(line):
                self._by_name[_stem(found[1])] = synsets.named(found[2]) if _WNID.fullmatch(found[2]) else int(found[2])
            elif number > 1:  # the first may be a head: ImageId,PredictionString
                raise UserError(f"{path}: line {number} is {shortened(line, 50)}; lines are a class (n01440764), or the name of "
                                "an image and its class")
        if bool(self._by_name) == bool(self._by_place):
            raise UserError(f"{path}: must have a class in each line, or the name of an image and its class in each line")

    def _of_development_kit(self, text: str, line: int) -> str:
        if not self._synsets.by_number:
            raise UserError(f"{self._path}: has the numbers of ILSVRC's development kit; --synsets must name a file with lines "
                            "such as n02119789 1 kit_fox, which says what they mean")
        wnid = self._synsets.by_number.get(int(text[:9]))
        if wnid is None:
            raise UserError(f"{self._path}: line {line} is {shortened(text, 50)}, which --synsets does not have")
        return self._synsets.named(wnid)

    def labelled(self, record: Record) -> Record:
        """The record with its class."""
        stem = _stem(record.name)
        if self._by_name:
            return replace(record, label=self._by_name.get(stem))
        number = re.search(r"([0-9]{1,9})$", stem)
        if number is None or not 1 <= int(number[1]) <= len(self._by_place):
            return replace(record, problem=f"no line of {self._path} is for it: its name must end in its number, 1 .. "
                                           f"{len(self._by_place)}")
        return replace(record, label=self._by_place[int(number[1]) - 1])


def _stem(name: str) -> str:
    """The name of an image without its folder and suffix."""
    return name.rsplit("/", 1)[-1].split(".")[0]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not empty, with their numbers."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        hint = "; MATLAB's meta.mat is not read: give a text file" if path.suffix == ".mat" else ""
        raise UserError(f"{path}: not a text file{hint}") from error
    lines = [(number, stripped) for number, line in enumerate(text.splitlines(), start=1) if (stripped := line.strip())]
    if not 0 < len(lines) <= _MOST_LINES:
        raise UserError(f"{path}: has {len(lines):,} lines; one for each class or image is needed")
    yield from lines
