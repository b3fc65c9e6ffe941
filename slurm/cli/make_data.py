"""`iddpm data`: calling the importers, with progress and a summary."""

from pathlib import Path

from jobs.data.importers.cifar10 import import_cifar10
from jobs.data.importers.digits import import_digits
from jobs.data.importers.folder import import_folder
from jobs.data.importers.npz import import_npz
from jobs.data.importers.writer import Summary, Writer
from jobs.run.progress import Bar

LISTED = 20


def digits(output: Path, split: str) -> None:
    _tell(import_digits({"train": "digits", "test": "digits-test"}[split], Writer(output)), output)


def cifar10(archive: Path, output: Path, split: str) -> None:
    _tell(import_cifar10(archive, Writer(output), split), output)


def npz(source: Path, output: Path) -> None:
    _tell(import_npz(source, Writer(output)), output)


def folder(source: Path, output: Path, image_size: int, labels: str, channels: int, on_error: str) -> None:
    import time
    bar, began = None, time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or Bar("images", total, "images")
        bar.show(done, done / (time.monotonic() - began))

    try:
        summary = import_folder(source, Writer(output), image_size, labels, channels, on_error, report)
    finally:
        if bar:
            bar.close()
    _tell(summary, output)


def _tell(summary: Summary, output: Path) -> None:
    classes = f", {len(summary.classes)} classes" if summary.classes else ""
    print(f"{output}: {summary.count} images{classes}")
    for path, reason in summary.skipped[:LISTED]:
        print(f"skipped {path}: {reason}")
    if len(summary.skipped) > LISTED:
        print(f"... and {len(summary.skipped) - LISTED} more")
    if summary.skipped:
        print(f"{len(summary.skipped)} skipped in all")
