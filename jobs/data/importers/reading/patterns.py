"""Find the files of a data set that comes in several: folders, and patterns such as train-{000..146}.tar or train-*.tar."""

import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jobs.errors import UserError
from jobs.storage.names import listed
from jobs.terminal import printable

_MOST = 100_000  # files
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)", re.ASCII)


def find_files(sources: Sequence[Path], suffixes: tuple[str, ...]) -> list[Path]:
    """The files that `sources` name, in their order; those of a folder or of a pattern by their names.

    A folder gives its files that end in one of `suffixes`, which must be of one series: train-0.tar and val-0.tar are two.
    Raises UserError for what is missing, also in the middle of a range.
    """
    files = [file for source in sources for file in _files_of(source, suffixes)]
    if missing := [file for file in files if not file.exists()]:
        names = f"; missing in all: {listed(file.name for file in missing)}" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]}: no such file{names}")
    if len(files) > _MOST:
        raise UserError(f"{sources[0]}: more than {_MOST:,} files")
    real = [os.path.realpath(file) for file in files]
    if len(set(real)) < len(real):
        counts = Counter(real)
        twice = next(str(file) for file, name in zip(files, real, strict=True) if counts[name] > 1)
        raise UserError(f"{printable(twice)}: given more than once")
    return files


def _files_of(source: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if source.is_dir():
        return _files_in(source, suffixes)
    if source.exists():
        return [source]
    found = []
    for name in _expanded(str(source)):
        if any(letter in name for letter in "*?["):
            matching = [Path(match) for match in sorted(glob.glob(name))]
            if not matching:
                raise UserError(f"{name}: no file fits this pattern")
            found += matching
        else:
            found.append(Path(name))
    return found


def _expanded(pattern: str) -> list[str]:
    """The names that the braces of `pattern` stand for, as in a shell: {000..146} are numbers, {a,b} are words."""
    parts: list[list[str]] = []
    for number, part in enumerate(_BRACES.split(pattern)):
        if number % 2 == 0:
            parts.append([part])
        elif ends := _RANGE.fullmatch(part):
            low, high = int(ends[1]), int(ends[2])
            if not 0 <= high - low < _MOST:
                raise UserError(f"{pattern}: {{{part}}} must be a range of up to {_MOST:,} numbers, such as {{000..146}}")
            width = len(ends[1]) if ends[1].startswith("0") or len(ends[1]) == len(ends[2]) else 0
            parts.append([f"{value:0{width}}" for value in range(low, high + 1)])
        else:
            parts.append(part.split(","))
    names = list(itertools.islice(map("".join, itertools.product(*parts)), _MOST + 1))
    if len(names) > _MOST:
        raise UserError(f"{pattern}: stands for more than {_MOST:,} files")
    return names


def _files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder)
                       if entry.name.lower().endswith(suffixes) and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from error
    if not names:
        raise UserError(f"{folder}: holds no {' or '.join(suffixes[:2])} file")
    series = sorted({re.sub(r"[0-9]+", "*", name) for name in names})
    if len(series) > 1:
        raise UserError(f"{folder}: holds several series of files: {listed(series)}; choose with a pattern in quotes: "
                        f"'{folder / printable(series[0])}'")
    return [folder / name for name in names]
