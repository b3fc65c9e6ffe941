"""`iddpm report`: write a study's report.html, and its numbers as report.json, report.csv and report.md."""

from pathlib import Path

from jobs.report.exports import as_csv, as_json, as_markdown
from jobs.report.page.page import study_page
from jobs.report.study import read_study
from jobs.storage.files import json_text, write_texts


def report(study: Path) -> Path:
    """Write the report of `study` (runs/<study>) into this folder. Returns report.html, one file that needs no network.

    Any mixture of finished, failed, unfinished and untouched runs makes a report, which names broken files. Raises UserError
    where `study` is not a study's directory or cannot be written to. Loads no torch.
    """
    read = read_study(Path(study))
    page = study_page(read)  # first, because drawing adds remarks
    write_texts({study / "report.json": json_text(as_json(read)), study / "report.csv": as_csv(read),
                 study / "report.md": as_markdown(read), study / "report.html": page})
    return study / "report.html"
