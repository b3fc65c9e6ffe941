"""Read a column of images from parquet files, in a child process (`child.ChildReader`) whose memory is bounded.

Hugging Face writes an image as a struct with `bytes` and `path`, and says under the key `huggingface` of the schema's metadata
which columns are images and labels: {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["cat", ...]}}}}.
"""

import json
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jobs.data.importers.encoded import Record
from jobs.data.importers.reading.child import Opened
from jobs.data.importers.reading.tar_members import MOST_BYTES
from jobs.errors import UserError
from jobs.quantities import size
from jobs.storage.datasets import bomb
from jobs.storage.names import listed, reason, shortened

_MOST_MEMORY = 6 << 30  # bytes; a page of images is held packed and unpacked
_ROWS, _BUFFER = 64, 4 << 20  # rows, and bytes of the file, that are read at a time
_MOST_CHUNK = 1 << 31  # bytes of a page or a batch of one column, as the format has it
_LABEL_NAMES = ("label", "labels", "class", "cls", "target")


@dataclass(frozen=True)
class Columns:
    """`image` and, unless it is None, `label`: names of columns. `names` of the classes, if the file has them."""

    image: str
    is_struct: bool
    label: str | None
    names: list[str]

    @property
    def wanted(self) -> list[str]:
        """The columns to read."""
        return [self.image] + ([self.label] if self.label else [])


def parquet_rows(arguments: dict[str, Any]) -> Iterator[Any]:
    """Facts (`total`, `image`, `label`, `names`), then a Record for each row of `files`.

    `image` and `label` are the names of the columns, null where the files shall tell; `label` "none": no labels. Raises
    UserError for a damaged file, or one whose columns are not those of the first.
    """
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # the others reserve more than the limit
    import pyarrow
    from pyarrow import parquet
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
    try:
        yield from _read(arguments, pyarrow, parquet)
    except MemoryError as error:
        raise UserError(f"{arguments['files'][0]}: needs more than {size(_MOST_MEMORY)} of memory; write it anew with smaller "
                        "pages and row groups") from error


def _read(arguments: dict[str, Any], pyarrow: Any, parquet: Any) -> Iterator[Any]:
    files, columns, total = arguments["files"], None, 0
    for path in files:
        with _opened(path, pyarrow, parquet) as file:
            found = _columns(path, file, arguments["image"], arguments["label"], pyarrow)
            if columns is not None and found != columns:
                raise UserError(f"{path}: its columns or class names are not those of {files[0]}")
            columns, total = found, total + file.metadata.num_rows
    assert columns
    yield {"total": total, "image": columns.image, "label": columns.label, "names": columns.names}
    for path in files:
        yield Opened(path)
        with _opened(path, pyarrow, parquet) as file:
            yield from _rows(path, file, columns, pyarrow)


def _reason(error: Exception) -> str:
    return reason(error).removesuffix("\\n")


def _opened(path: str, pyarrow: Any, parquet: Any) -> Any:
    if not os.path.isfile(path):
        raise UserError(f"{path}: not a regular file")
    try:
        return parquet.ParquetFile(path, memory_map=False, buffer_size=_BUFFER, pre_buffer=False,
                                   page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: not a parquet file, or a damaged one ({_reason(error)})") from error


def _columns(path: str, file: Any, image: str | None, label: str | None, pyarrow: Any) -> Columns:
    """Find the columns that are asked for, or those that the schema shows. Raises UserError where that is not clear."""
    try:
        schema = file.schema_arrow
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: a damaged schema ({_reason(error)})") from error
    features = _features(schema.metadata or {})
    images = [field.name for field in schema if _holds_images(field, features, pyarrow)]
    chosen = _chosen(path, "image", image, images, schema)
    if chosen is None:
        raise UserError(f"{path}: no column of encoded images (binary, or a struct with bytes); it has "
                        f"{listed(f'{field.name}: {field.type}' for field in schema)}")
    names = [field.name for field in schema]
    labels = [name for name in names if features.get(name, {}).get("_type") == "ClassLabel"]
    if not labels:
        labels = [name for name in names if name.lower() in _LABEL_NAMES and _holds_labels(schema.field(name).type, pyarrow)]
    found = None if label == "none" else _chosen(path, "label", label, labels, schema)
    if found and not _holds_labels(schema.field(found).type, pyarrow):
        raise UserError(f"{path}: the column {shortened(found)} is {schema.field(found).type}; labels are whole numbers or text")
    classes = features.get(found, {}).get("names") if found else None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        classes = []
    return Columns(chosen, pyarrow.types.is_struct(schema.field(chosen).type), found, classes)


def _chosen(path: str, kind: str, asked: str | None, found: list[str], schema: Any) -> str | None:
    if asked is not None:
        if schema.get_field_index(asked) < 0:
            raise UserError(f"{path}: has no column {shortened(asked)}; it has {listed(schema.names)}")
        return asked
    if len(found) > 1 and kind not in found:
        none = ", or none" if kind == "label" else ""
        raise UserError(f"{path}: has several columns of {kind}s: {listed(found)}; choose one with --{kind} NAME{none}")
    return None if not found else kind if kind in found else found[0]


def _features(metadata: dict[bytes, bytes]) -> dict[str, dict]:
    """What Hugging Face's metadata say of each column."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {name: found for name, found in features.items() if isinstance(found, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _holds_images(field: Any, features: dict[str, dict], pyarrow: Any) -> bool:
    kind = field.type
    if pyarrow.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type, pyarrow)
    return _is_binary(kind, pyarrow) and features.get(field.name, {}).get("_type", "Image") == "Image"


def _is_binary(kind: Any, pyarrow: Any) -> bool:
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def _holds_labels(kind: Any, pyarrow: Any) -> bool:
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    return pyarrow.types.is_integer(kind) or pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)


def _rows(path: str, file: Any, columns: Columns, pyarrow: Any) -> Iterator[Record]:
    number = 0
    try:
        _refuse_bombs(path, file, columns)
        for batch in file.iter_batches(_ROWS, columns=columns.wanted, use_threads=False):
            images = batch.column(columns.image)
            labels = batch.column(columns.label) if columns.label else None
            for place in range(len(batch)):
                yield _record(f"{os.path.basename(path)}, row {number}", images[place], labels and labels[place].as_py(), columns)
                number += 1
    # ArrowNotImplementedError: a codec that this build of pyarrow lacks, or rows of a struct that need several chunks (2 GiB).
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged after {number:,} rows ({_reason(error)})") from error


def _record(name: str, image: Any, label: str | int | None, columns: Columns) -> Record:
    content = image["bytes"] if columns.is_struct and image.is_valid else image
    if columns.is_struct and image.is_valid and image.type.get_field_index("path") >= 0:
        given = image["path"].as_py()
        name += f" ({shortened(str(given))})" if given else ""
    if not image.is_valid or not content.is_valid:
        return Record(name, b"", label, "holds no bytes; a path alone is not followed")
    found = content.as_buffer()
    if found.size > MOST_BYTES:
        return Record(name, b"", label, f"{found.size:,} bytes, more than an image has")
    return Record(name, found.to_pybytes(), label)


def _refuse_bombs(path: str, file: Any, columns: Columns) -> None:
    """Raise UserError for columns that unpack to more than images do."""
    for group in range(file.metadata.num_row_groups):
        row_group = file.metadata.row_group(group)
        for number in range(row_group.num_columns):
            column = row_group.column(number)
            if column.path_in_schema.split(".")[0] == columns.image and \
                    (problem := bomb(column.total_uncompressed_size, column.total_compressed_size)):
                raise UserError(f"{path}: row group {group} {problem}")
