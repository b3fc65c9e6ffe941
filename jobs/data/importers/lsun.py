"""Make a data set from LSUN: databases such as bedroom_train_lmdb, or the folders of images that were exported from them."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from jobs.data.importers.encoded import Form, Record, import_records
from jobs.data.importers.reading.child import ChildReader
from jobs.data.importers.reading.extras import need
from jobs.data.importers.reading.trees import Trees
from jobs.data.importers.writer import Summary, Writer
from jobs.errors import UserError
from jobs.storage.names import listed

Split = Literal["train", "val"]
_NAME = re.compile(r"(?P<category>.+)_(?P<split>train|val|test)(_lmdb)?")


@dataclass(frozen=True)
class _Category:
    """The images of one category, in a database or in a tree of folders."""

    name: str
    path: Path

    @property
    def is_lmdb(self) -> bool:
        return _is_lmdb(self.path)


def import_lsun(source: Path, writer: Writer, form: Form, split: Split) -> Summary:
    """Write the images of LSUN, category by category, databases in the order of their keys, as `import_records` does.

    `source` is one category, whose data set has no classes, or a folder of several, such as bedroom_train_lmdb and
    tower_train, of which those of `split` are taken.
    """
    categories = _categories(source, split)
    several = len(categories) > 1
    databases = [[str(one.path), one.name if several else None] for one in categories if one.is_lmdb]
    folders = [(folder, one.name if several else None) for one in categories if not one.is_lmdb for folder in _parts(one.path)]
    if databases:
        need("lmdb", "lmdb")
    with ExitStack() as stack:
        parts, total, remarks = list[Iterator[Record]](), 0, list[str]()
        if databases:
            reader = stack.enter_context(ChildReader("jobs.data.importers.reading.lmdb_rows", "lmdb_rows",
                                                     {"databases": databases}, str(source)))
            parts, total = [reader.records()], reader.facts["total"]
        if folders:
            trees = Trees(source, folders)
            parts, total, remarks = [*parts, trees.records()], total + trees.total, trees.remarks()
        return import_records(chain.from_iterable(parts), writer, form, str(source),
                              f"LSUN {source}{f', {split}' if several else ''}, {form.image_size}x{form.image_size}",
                              labelled=several, total=total, remarks=remarks)


def _is_lmdb(path: Path) -> bool:
    return path.suffix == ".mdb" and path.is_file() or (path / "data.mdb").is_file()


def _categories(source: Path, split: Split) -> list[_Category]:
    """The categories that `source` names. Raises UserError if there are none of the split."""
    if _is_lmdb(source):
        return [_Category("", source)]
    if not source.is_dir():
        raise UserError(f"{source}: no such folder" if not source.exists() else
                        f"{source}: not an LMDB database; LSUN comes as folders with a file data.mdb")
    folders = sorted(entry for entry in source.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    named = [(folder, _NAME.fullmatch(folder.name)) for folder in folders]
    if not any(name for _, name in named) and not any(map(_is_lmdb, folders)):
        if others := [folder.name for folder in folders if len(folder.name) > 1]:
            raise UserError(f"{source}: holds {listed(others)}, which are neither databases nor categories (bedroom_train), nor "
                            "first letters of keys, as LSUN's export has them; `iddpm data folder` reads other folders")
        return [_Category("", source)]
    found = [_Category(name["category"], folder) for folder, name in named if name and name["split"] == split]
    found += [_Category(folder.name.removesuffix("_lmdb"), folder) for folder, name in named if not name and _is_lmdb(folder)]
    if not found:
        raise UserError(f"{source}: has no category of the split {split}; it has {listed(folder.name for folder in folders)}")
    if len(found) > len({one.name for one in found}):
        raise UserError(f"{source}: has a category twice, as database and as folder: {listed(sorted(one.name for one in found))}")
    return sorted(found, key=lambda one: one.name)


def _parts(folder: Path) -> list[Path]:
    """The folders in `folder`, in their order, if there are only folders, or `folder` itself: parts are listed one by one."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return entries if entries and all(entry.is_dir() for entry in entries) else [folder]
