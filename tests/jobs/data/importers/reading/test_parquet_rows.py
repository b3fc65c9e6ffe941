"""How parquet files are kept from filling memory."""

import os
import resource

import pyarrow
import pytest
from made_archives import encoded, parquet
from pyarrow import parquet as library

from jobs.data.importers.encoded import Form
from jobs.data.importers.parquet import import_parquet
from jobs.data.importers.reading import parquet_rows
from jobs.data.importers.reading.child import ChildReader
from jobs.data.importers.writer import Writer
from jobs.errors import UserError
from jobs.storage import datasets


def limited(arguments):
    """In the child: the facts, and how much memory it may have."""
    yield next(parquet_rows.parquet_rows(arguments)) | {"memory": resource.getrlimit(resource.RLIMIT_DATA)[0]}


def test_the_memory_of_the_child_is_bounded(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    file = parquet(tmp_path / "a.parquet", [encoded()])
    with ChildReader("test_parquet_rows", "limited", {"files": [str(file)], "image": None, "label": None}, "a") as reader:
        assert reader.facts == {"total": 1, "image": "image", "label": None, "names": [], "memory": 6 << 30}


def test_columns_that_unpack_to_more_than_images_do(tmp_path, monkeypatch):
    path = str(tmp_path / "a.parquet")
    library.write_table(pyarrow.table({"image": [bytes(1 << 20)] * 3, "other": [1, 2, 3]}), path, use_dictionary=False,
                        compression="zstd")
    columns = parquet_rows.Columns("image", False, None, [])
    with library.ParquetFile(path) as file:
        parquet_rows._refuse_bombs(path, file, columns)
        monkeypatch.setattr(datasets, "_SMALL", 1 << 20)
        with pytest.raises(UserError, match=r"a.parquet: row group 0 unpacks from \S+ (Ki)?B to 3 MiB, which images do not"):
            parquet_rows._refuse_bombs(path, file, columns)


def test_checksums_of_pages_are_compared(tmp_path, output, assert_nothing_written):
    image = encoded(kind="bmp")
    table = pyarrow.table({"image": [image] * 3})
    library.write_table(table, tmp_path / "a.parquet", compression="none", use_dictionary=False, write_page_checksum=True,
                        write_statistics=False)
    content = (tmp_path / "a.parquet").read_bytes()
    place = content.index(image) + len(image) - 3  # a pixel: every decoder would take it
    (tmp_path / "a.parquet").write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1:])
    with pytest.raises(UserError, match="a.parquet: damaged after 0 rows .*CRC"):
        import_parquet([tmp_path / "a.parquet"], Writer(output), Form(8, 1))
    assert_nothing_written()
