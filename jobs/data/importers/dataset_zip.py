"""Make a data set from a zip of images with `dataset.json`, as the dataset tools of EDM and StyleGAN write it.

All images have one size and one number of channels. `dataset.json` has `labels`: null, or a list of [file name, class id].
"""

import json
import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.data.image_files import Decoded, Header, Listing, is_image_name, read_header
from jobs.data.importers.averaged import average, check_not_enlarged, words_of
from jobs.data.importers.class_names import read_class_names
from jobs.data.importers.encoded import Form, OnError, Record, import_records
from jobs.data.importers.writer import Summary, Writer
from jobs.data.npz_arrays import UNREADABLE
from jobs.errors import UserError
from jobs.quantities import size
from jobs.storage.datasets import bomb, no_memory
from jobs.storage.names import reason, shortened

_JSON = "dataset.json"
_MOST_IMAGE, _MOST_JSON = 64 << 20, 1 << 30  # bytes
_JSON_GROWS = 25  # times, when it becomes Python objects


def import_zip(source: Path, writer: Writer, on_error: OnError = "refuse", class_names: Path | None = None,
               image_size: int | None = None) -> Summary:
    """Write the images of the zip `source`, in the order of their names, with the size and the channels of the first.

    `image_size` averages them down. Memory holds a block of images, the names of all, and their labels. Images that cannot be
    used, or are unlike the first, or have no label where others have one, are refused or skipped as `on_error` says. Raises
    UserError that names the zip and the entry.
    """
    names = read_class_names(class_names) if class_names else None
    with _open(source) as archive:
        listing, labels = _list(source, archive), _read_labels(source, archive)
        if names and not labels:
            names.check(None, str(source))
        first = _first_header(source, archive, listing.images)
        form = Form(image_size or first.width, 1 if first.is_grey else 3, on_error)
        check_not_enlarged(first.width, form.image_size, str(source))
        remarks = [] if labels else [f"no labels: {_JSON} has none" if _JSON in archive.namelist() else f"no labels: no {_JSON}"]
        remarks += [f"left out {left_out}"] if (left_out := listing.left_out()) else []
        return import_records(
            _records(archive, listing.images, labels), writer, form, str(source),
            f"zip file {source}{words_of(first.width, form.image_size)}", bool(labels), names.names if names else (),
            len(listing.images), remarks, lambda content, bits: _decode(content, bits, first, form))


def _open(source: Path) -> zipfile.ZipFile:
    if source.exists() and not source.is_file():
        raise UserError(f"{source}: {'a folder; `iddpm data folder` imports it' if source.is_dir() else 'not a regular file'}")
    try:
        return zipfile.ZipFile(source)
    except FileNotFoundError as error:
        raise UserError(f"{source}: no such file") from error
    except PermissionError as error:
        raise UserError(f"{source}: not readable (permission denied)") from error
    except UNREADABLE as error:
        raise UserError(f"{source}: not a zip file, or a damaged one ({reason(error)})") from error


def _list(source: Path, archive: zipfile.ZipFile) -> Listing:
    """Names of the images, sorted, each once; and how many other files there are."""
    images, others = set[str](), Counter[str]()
    for name in archive.namelist():
        parts = name.split("/")
        if name.endswith("/") or name == _JSON:
            continue
        if any(part.startswith(".") and part not in (".", "..") for part in parts) or parts[0] == "__MACOSX":
            others["hidden"] += 1
        elif is_image_name(name):
            images.add(name)
        else:
            others[os.path.splitext(name)[1].lower() or "without a suffix"] += 1
    listing = Listing(sorted(images), others)
    if not images:
        hint = "; `iddpm data npz` imports an .npz file" if source.suffix == ".npz" else \
            "; .npy are latents of EDM2, and no images" if others[".npy"] else ""
        raise UserError(f"{source}: no pictures in it; {listing.left_out() or 'no other files'}{hint}")
    return listing


def _read_labels(source: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    """The label of each file that has one; empty where there are no labels. Raises UserError for labels that are no class ids."""
    where = f"{source}: {_JSON}"
    if _JSON not in archive.namelist():
        return {}
    if problem := no_memory(_JSON_GROWS * archive.getinfo(_JSON).file_size):
        raise UserError(f"{where}: {problem}")
    content = _read(archive, _JSON, _MOST_JSON)
    if isinstance(content, str):
        raise UserError(f"{where}: {content}")
    try:
        found = json.loads(content, object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON, or damaged ({reason(error)})") from error
    if not isinstance(found, dict) or "labels" not in found or not isinstance(found["labels"], list | None):
        raise UserError(f'{where}: "labels" must be null, or a list of [file name, class id]')
    labels = dict[str, int]()
    for place, entry in enumerate(found["labels"] or []):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise UserError(f"{where}: label {place} is {shortened(json.dumps(entry), 50)}; it must be [file name, class id]")
        name, label = entry
        if name in labels:
            raise UserError(f"{where}: has two labels for {shortened(name)}")
        labels[name] = _class_id(f"{where}: the label of {shortened(name)}", label)
    return labels


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise ValueError(f"{shortened(twice[0])} is there twice")
    return dict(pairs)


def _class_id(where: str, label: Any) -> int:
    if isinstance(label, list):
        raise UserError(f"{where} has {len(label)} numbers; only class ids can be used, one whole number an image")
    if type(label) is not int or label < 0:
        raise UserError(f"{where} is {shortened(json.dumps(label), 50)}; class ids are whole numbers from 0")
    return label


def _first_header(source: Path, archive: zipfile.ZipFile, names: list[str]) -> Header:
    """Of the first image that can be read. Raises UserError if there is none, or if it is not square."""
    problem = ""
    for name in names:
        content = _read(archive, name, _MOST_IMAGE)
        header = content if isinstance(content, str) else read_header(content)
        if isinstance(header, Header):
            if header.width != header.height:
                raise UserError(f"{source}: {shortened(name)}: {header.width}x{header.height}; images must be square. Unpack the "
                                "zip, and crop them with `iddpm data folder`")
            return header
        problem = problem or f"{shortened(name)}: {header}"
    raise UserError(f"{source}: none of its {len(names)} images can be read, nothing was written; the first is {problem}")


def _records(archive: zipfile.ZipFile, names: list[str], labels: dict[str, int]) -> Iterator[Record]:
    count = Counter(archive.namelist())
    for name in names:
        label = labels.get(name.replace("\\", "/"))
        content = _read(archive, name, _MOST_IMAGE) if count[name] == 1 else f"is in the zip {count[name]} times"
        yield Record(name, b"", label, content) if isinstance(content, str) else Record(name, content, label)
    for name in sorted(set(labels) - {name.replace("\\", "/") for name in names}):
        yield Record(name, b"", labels[name], f"has a label in {_JSON}, and is not in the zip")


def _read(archive: zipfile.ZipFile, name: str, most: int) -> bytes | str:
    """The bytes of an entry, or the reason why they cannot be used."""
    entry = archive.getinfo(name)
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.file_size > most:
        return f"unpacks to {size(entry.file_size)}, and more than {size(most)} are not read"
    if problem := bomb(entry.file_size, entry.compress_size):
        return problem
    try:
        with archive.open(entry) as stream:
            content = stream.read()
    except UNREADABLE as error:  # RuntimeError includes NotImplementedError: packed in a way that zipfile does not know
        return f"cannot be unpacked ({reason(error)})"
    return content if len(content) == entry.file_size else f"ends after {len(content)} of {entry.file_size} bytes"


def _decode(content: bytes | Path, bits: int, first: Header, form: Form) -> Decoded | str:
    """The image, if it is like the first one."""
    found = replace(form, image_size=first.width).decode(content, bits)
    header = read_header(content) if isinstance(found, str) or found.size != (first.width, first.height) else first
    if isinstance(header, Header) and (header.width, header.height) != (first.width, first.height):
        return f"{header.width}x{header.height}, but the first image is {first.width}x{first.height}"
    if isinstance(found, str):
        return found
    if found.done & {"grey", "colour"}:
        return f"{'coloured' if first.is_grey else 'grey'}, but the first image is {'grey' if first.is_grey else 'coloured'}"
    if form.image_size == first.width:
        return found
    return replace(found, pixels=average(found.pixels[None], form.image_size)[0])
