"""Make a data set from webdataset shards: tar archives in which files of one key, as 17.jpg and 17.cls, are an example."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

from jobs.data.image_files import is_image_name
from jobs.data.importers.encoded import Form, Record, import_records
from jobs.data.importers.reading.child import LONGEST_CLASS
from jobs.data.importers.reading.patterns import find_files
from jobs.data.importers.reading.tar_members import SUFFIXES, Member, open_tar
from jobs.data.importers.writer import Summary, Writer
from jobs.errors import UserError
from jobs.storage.names import listed, reason, shortened

Labels = Literal["auto", "cls", "json", "none"]
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
"""Key, and what follows the first "." of the file's name, as webdataset divides names."""
_MOST_LABEL = 1 << 20  # bytes of a .cls or .json


@dataclass
class _Example:
    """Files of one key, one after the other in `shard`."""

    key: str
    shard: Path
    images: list[tuple[str, bytes, str]] = field(default_factory=list)
    """Extension, content, and the reason why it cannot be used."""
    labels: dict[str, bytes | str] = field(default_factory=dict)
    """Content of .cls and .json, or the reason why it cannot be used."""


def import_webdataset(sources: Sequence[Path], writer: Writer, form: Form, labels: Labels = "auto",
                      json_key: str = "label") -> Summary:
    """Write the images of the shards, in their order, as `import_records` does.

    The class is in .cls, or under `json_key` in .json; "auto": in .cls if the first example has it, else in .json if that has the
    key, else there are no classes. Numbers are ids from 0; text names classes. Files of other kinds are left out.
    """
    shards = find_files(sources, SUFFIXES)
    where = str(shards[0]) if len(shards) == 1 else f"{shards[0]} and {len(shards) - 1} more"
    remarks, left_out = list[str](), dict[str, int]()
    examples = _examples(shards, left_out)
    first = next(examples, None)
    if first is None:
        raise UserError(f"{where}: holds no images; files in it: {listed(left_out)}")
    kind = _found_labels(first, json_key) if labels == "auto" else labels
    remarks.append(f"labels: {kind}{f', key {shortened(json_key)}' if kind == 'json' else ''}")

    def records() -> Iterator[Record]:
        yield from (_record(example, kind, json_key) for example in chain([first], examples))
        if left_out:
            remarks.append("left out " + ", ".join(f"{count:,} {suffix}" for suffix, count in left_out.items()))

    described = f"webdataset {where}, {form.image_size}x{form.image_size}, {remarks[0]}"
    return import_records(records(), writer, form, where, described, labelled=kind != "none", remarks=remarks)


def _examples(shards: list[Path], left_out: dict[str, int]) -> Iterator[_Example]:
    """The examples that have an image. Counts in `left_out` the files that are of no use, by their extension."""
    for shard in shards:
        with open_tar(shard) as members:
            example: _Example | None = None
            for member in members:
                parts = _NAME.fullmatch(member.name)
                key, extension = (parts[1], parts[2].lower()) if parts else (member.name, "")
                if example is None or example.key != key:
                    if example and example.images:
                        yield example
                    example = _Example(key, shard)
                if not _add(example, extension, member):
                    suffix = f".{shortened(extension, 20)}" if extension else "without a suffix"
                    if suffix in left_out or len(left_out) < 10:
                        left_out[suffix] = left_out.get(suffix, 0) + 1
            if example and example.images:
                yield example


def _add(example: _Example, extension: str, member: Member) -> bool:
    """Read the member if the example needs it; whether it does."""
    if extension in ("cls", "json"):
        problem = member.problem or ("too large" if member.size > _MOST_LABEL else "")
        if extension in example.labels:
            problem = f"is there twice: .{extension}"
        example.labels[extension] = problem or member.read()
    elif "." not in extension and is_image_name(f".{extension}"):  # 17.seg.png is not the image of 17
        if len(example.images) < 10:  # of several none is used, so only the first is kept
            example.images.append((extension, *((b"", "") if example.images else member.image())))
    else:
        return False
    return True


def _record(example: _Example, kind: str, json_key: str) -> Record:
    extension, content, problem = example.images[0]
    name = f"{example.shard.name}: {example.key}.{extension}"
    if len(example.images) > 1:
        extensions = [extension for extension, _, _ in example.images]
        return Record(name, b"", None, f"{len(extensions)} images have this key: {listed(extensions)}")
    if kind == "none" or problem:
        return Record(name, content, None, problem)
    found = example.labels.get(kind)
    if found is None:
        return Record(name, content, None, f"no {os.path.basename(example.key)}.{kind} beside it")
    try:
        return Record(name, content, _label(found, kind, json_key))
    except ValueError as error:
        return Record(name, content, None, f".{kind}: {reason(error)}")


def _label(found: bytes | str, kind: str, json_key: str) -> str | int:
    """The class in a .cls or a .json. Raises ValueError where there is none."""
    if isinstance(found, str):
        raise ValueError(found)
    if kind == "cls":
        text = found.decode("utf-8").strip()
        if not text:
            raise ValueError("is empty")
        return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else _short(text)
    try:
        value = json.loads(found)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict) or json_key not in value:
        raise ValueError(f"has no {shortened(json_key)}")
    label = value[json_key]
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise ValueError(f"{shortened(json_key)} is {shortened(json.dumps(label), 50)}; a class is a whole number or text")
    return label if isinstance(label, int) else _short(label)


def _short(name: str) -> str:
    if len(name) > LONGEST_CLASS:
        raise ValueError(f"a class whose name has {len(name):,} characters")
    return name


def _found_labels(example: _Example, json_key: str) -> str:
    """Where the example has its class."""
    if "cls" in example.labels:
        return "cls"
    try:
        _label(example.labels.get("json", "missing"), "json", json_key)
    except ValueError:
        return "none"
    return "json"
