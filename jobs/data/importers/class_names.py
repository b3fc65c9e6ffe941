"""Read the names of classes from a text file, for data sets whose files have numbers only."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.errors import UserError
from jobs.storage.names import reason, shortened

_MOST_BYTES = 4 << 20
_IMAGENET = re.compile(r"(n\d{8}) (\d{1,7}) (\S.*)")  # n02119789 1 kit_fox
_EMNIST = re.compile(r"(\d{1,7})((?: \d{1,7}){1,2})")  # 10 65, or 1 65 97: a label, and the codes of its letters
_WNID = re.compile(r"n\d{8}\b.*")
_FORMS = "one name a line, or lines like `n02119789 1 kit_fox` (map_clsloc.txt) or `10 65` (EMNIST's mapping)"


@dataclass(frozen=True)
class ClassNames:
    """Names of the classes, and the number that the file `path` gives the first one; None where it gives no numbers."""

    path: Path
    names: list[str]
    first: int | None = None

    def check(self, labels: np.ndarray | None, where: str) -> None:
        """Raise UserError if a label, int64 [N] from 0, has no name, or if `where` has no labels."""
        if labels is None:
            raise UserError(f"{where}: has no labels, so there are no classes for the names in {self.path}")
        if len(labels) and labels.max() >= len(self.names):
            raise UserError(f"{self.path}: names {len(self.names)} of the classes, "
                            f"but there is a class number {labels.max() + 1}")


def read_class_names(path: Path) -> ClassNames:
    """Read names: one a line in the order of the ids, or with numbers, as in map_clsloc.txt or in EMNIST's mapping.

    Raises UserError that names the file and the line.
    """
    lines = _read_lines(path)
    if not lines:
        raise UserError(f"{path}: names no class; it needs {_FORMS}")
    for form, name in ((_IMAGENET, lambda found: found[3]), (_EMNIST, _letters)):
        found = [form.fullmatch(line) for line in lines]
        if all(found):
            return _numbered(path, [(int(match[1] if form is _EMNIST else match[2]), name(match)) for match in found if match])
    if _WNID.fullmatch(lines[0]):
        raise UserError(f"{path}: line 1 is {shortened(lines[0], 50)}, without the number of the class; it needs {_FORMS}")
    if twice := next((line for line, count in Counter(lines).items() if count > 1), None):
        raise UserError(f"{path}: names {shortened(twice, 50)} twice")
    return ClassNames(path, lines)


def _read_lines(path: Path) -> list[str]:
    """Lines that are not empty, with single spaces between words."""
    try:
        if not path.is_file():
            raise UserError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}; "
                            f"class names need {_FORMS}")
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path}: more than {_MOST_BYTES >> 20} MiB, so it is no list of class names")
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({reason(error)})") from error
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def _letters(found: re.Match[str]) -> str:
    codes = [int(code) for code in found[2].split()]
    return "".join(chr(code) if code < 0x110000 else "" for code in dict.fromkeys(codes))


def _numbered(path: Path, pairs: list[tuple[int, str]]) -> ClassNames:
    names = dict(pairs)
    first = min(names)
    if len(names) < len(pairs) or first > 1 or sorted(names) != list(range(first, first + len(names))):
        raise UserError(f"{path}: its {len(pairs)} numbers of classes must each be there once, from 0 or 1 without a gap")
    return ClassNames(path, [names[number] for number in sorted(names)], first)
