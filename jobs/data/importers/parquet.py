"""Make a data set from parquet files with a column of encoded images, as Hugging Face has them."""

from collections.abc import Sequence
from pathlib import Path

from jobs.data.importers.encoded import Form, import_records
from jobs.data.importers.reading.child import ChildReader
from jobs.data.importers.reading.extras import need
from jobs.data.importers.reading.patterns import find_files
from jobs.data.importers.writer import Summary, Writer
from jobs.storage.names import shortened


def import_parquet(sources: Sequence[Path], writer: Writer, form: Form, image: str | None = None,
                   label: str | None = None) -> Summary:
    """Write the images of the parquet files, row by row, as `import_records` does.

    `image` and `label` name the columns; None: those that the schema shows; `label` "none": no labels. Classes have the names
    in the metadata of Hugging Face, if there are any.
    """
    need("pyarrow", "parquet")
    files = find_files(sources, (".parquet",))
    where = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    with ChildReader("jobs.data.importers.reading.parquet_rows", "parquet_rows",
                     {"files": [str(file) for file in files], "image": image, "label": label}, where) as reader:
        facts = reader.facts
        labels = f"labels: {shortened(facts['label'])}" if facts["label"] else "no labels"
        columns = f"images: {shortened(facts['image'])}, {labels}"
        described = f"parquet {where}, {form.image_size}x{form.image_size}, {columns}"
        return import_records(reader.records(), writer, form, where, described, labelled=facts["label"] is not None,
                              class_names=facts["names"], total=facts["total"], remarks=[f"columns: {columns}"])
