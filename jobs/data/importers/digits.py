"""Write a built-in data set to a file, for programs that read files."""

from jobs.data.dataset import open_built_in
from jobs.data.importers.writer import Summary, Writer


def import_digits(source: str, writer: Writer) -> Summary:
    """Write the handwritten digits, 8x8 grey: `source` is "digits" (1500 images) or "digits-test" (the other 297)."""
    data = open_built_in(source)
    return writer.write([data.images], data.images.shape, data.labels, data.class_names, data.source)
