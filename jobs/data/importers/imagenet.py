"""Make a data set from ImageNet as ILSVRC gives it: train/n01440764/*.JPEG, val/*.JPEG, or the archives of these."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from jobs.data.image_files import is_image_name
from jobs.data.importers.encoded import Form, Record, import_records
from jobs.data.importers.reading.ilsvrc_labels import Synsets, Truth
from jobs.data.importers.reading.tar_members import Member, members, open_tar
from jobs.data.importers.reading.trees import Trees
from jobs.data.importers.writer import Summary, Writer
from jobs.errors import UserError
from jobs.storage.names import listed

Split = Literal["train", "val"]
WNID = re.compile(r"n[0-9]{8}")
_IN_PATH = re.compile(r"(?<![A-Za-z0-9])n[0-9]{8}(?![0-9])")
_PLACES = ("", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")  # of train/ and val/; the latter two as Kaggle has them


def import_imagenet(source: Path, writer: Writer, form: Form, split: Split, labels: Path | None = None,
                    synsets: Path | None = None) -> Summary:
    """Write the images of one split, in the order of their paths, as `import_records` does.

    `source` is the folder that holds train/ and val/, one of these two, or the archive of one: images, or archives of classes.
    Classes are WordNet ids, in their order, with the word that the file `synsets` has for them. The classes of images that lie
    flat, as in val/, are in the file `labels`; without this file the data set has no classes.
    """
    words = Synsets(synsets)
    size = f"{form.image_size}x{form.image_size}{f', labels: {labels}' if labels else ''}"
    described = f"ImageNet {split} {source}, {size}"
    if source.is_file():
        truth = Truth(labels, words, []) if labels else None
        return import_records(_of_archive(source, words, truth), writer, form, str(source), f"ImageNet {source}, {size}",
                              labelled=truth is not None or _has_classes(source))
    root = _root(source, split)
    folders = _class_folders(root)
    if folders:
        trees = Trees(root, [(folder, words.named(folder.name)) for folder in folders])
        return import_records(trees.records(), writer, form, str(root), described, labelled=True, total=trees.total,
                              remarks=[*_left_out(root), *trees.remarks()])
    _check_flat(root, labels is not None)
    trees = Trees(root, [(root, None)])
    if labels is None:
        return import_records(trees.records(), writer, form, str(root), described, labelled=False, total=trees.total,
                              remarks=["no classes; --labels FILE gives them", *trees.remarks()])
    truth = Truth(labels, words, [folder.name for folder in _class_folders(root.parent / "train")])
    return import_records(map(truth.labelled, trees.records()), writer, form, str(root), described,
                          labelled=True, class_names=truth.classes, total=trees.total, remarks=trees.remarks())


def _root(source: Path, split: Split) -> Path:
    """The folder of the split in or below `source`; `source` itself if that is it."""
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder")
    found = next((source / place / split for place in _PLACES if (source / place / split).is_dir()), None)
    if found is None and any((source / other).is_dir() for other in ("train", "val")):
        raise UserError(f"{source}: has no folder {split}")
    return found or source


def _class_folders(root: Path) -> list[Path]:
    """The folders in `root` that are named by WordNet ids, in their order."""
    try:
        return sorted(folder for folder in root.iterdir() if WNID.fullmatch(folder.name) and folder.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{root}: cannot be listed ({error.strerror})") from error


def _left_out(root: Path) -> list[str]:
    """What lies beside the folders of classes, in words."""
    others = sorted(entry.name for entry in root.iterdir() if not (WNID.fullmatch(entry.name) and entry.is_dir()))
    return [f"left out beside the classes: {listed(others)}"] if others else []


def _check_flat(root: Path, labelled: bool) -> None:
    """Raise UserError if archives of classes are where images are expected, or folders, unless a file gives labels."""
    entries = list(root.iterdir())
    folders = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if folders and not labelled:  # Tiny ImageNet has val/images, and a file of labels
        raise UserError(f"{root}: its folders are not named by WordNet ids (n01440764), but {listed(folders)}; "
                        "`iddpm data folder --labels subfolder` reads such folders")
    if archives := sorted(entry.name for entry in entries if entry.suffix == ".tar"):
        raise UserError(f"{root}: holds archives of classes ({listed(archives)}); give the archive that they were in, or unpack "
                        "each into a folder of its name")


def _has_classes(source: Path) -> bool:
    """Whether the first image in the archive has a class: a folder or an archive that is named by a WordNet id."""
    with open_tar(source) as found:
        first = next((member for member in found if member.name.endswith(".tar") or is_image_name(member.name)), None)
        return first is not None and _wnid_of(first) != ""


def _wnid_of(member: Member) -> str:
    """The WordNet id in the path of a member, or ""."""
    found = _IN_PATH.findall(member.name)
    return found[-1] if found else ""


def _of_archive(source: Path, words: Synsets, truth: Truth | None) -> Iterator[Record]:
    """The images in the archive: of ILSVRC2012_img_train.tar, which holds an archive for each class, or of a flat one."""
    with open_tar(source) as found:
        for member in found:
            wnid = _wnid_of(member)
            if member.name.endswith(".tar") and not member.problem:
                for image in members(member):
                    yield _record(image, f"{member.name}/{image.name}", words.named(wnid) if wnid else None)
            elif is_image_name(member.name):
                record = _record(member, member.name, words.named(wnid) if wnid else None)
                yield truth.labelled(record) if truth else record


def _record(member: Member, name: str, label: str | None) -> Record:
    content, problem = member.image()
    return Record(name, content, label, problem)
