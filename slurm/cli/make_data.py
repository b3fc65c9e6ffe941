"""`iddpm data`: calling the importers, with progress and a summary."""

from pathlib import Path

from jobs.data.importers import arrays as data_import
from jobs.data.importers.arrays import ImportSummary
from jobs.run.progress import Bar

LISTED = 20


def digits(output: Path, split: str) -> None:
    _tell(data_import.import_digits(output, split), output)


def cifar10(archive: Path, output: Path, split: str) -> None:
    _tell(data_import.import_cifar10(archive, output, split), output)


def npz(source: Path, output: Path) -> None:
    _tell(data_import.import_npz(source, output), output)


def folder(source: Path, output: Path, image_size: int, labels: str, channels: int, on_error: str) -> None:
    import time
    bar, began = None, time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or Bar("images", total, "images")
        bar.show(done, done / (time.monotonic() - began))

    try:
        summary = data_import.import_folder(source, output, image_size, labels, channels, on_error, report)
    finally:
        if bar:
            bar.close()
    _tell(summary, output)


def _tell(summary: ImportSummary, output: Path) -> None:
    classes = f", {len(summary.classes)} classes" if summary.classes else ""
    print(f"{output}: {summary.count} images{classes}")
    for path, reason in summary.skipped[:LISTED]:
        print(f"skipped {path}: {reason}")
    if len(summary.skipped) > LISTED:
        print(f"... and {len(summary.skipped) - LISTED} more")
    if summary.skipped:
        print(f"{len(summary.skipped)} skipped in all")
