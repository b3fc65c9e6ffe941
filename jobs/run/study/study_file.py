"""study.json: the runs of a study, and which of them the spec no longer has.

    {"name": STUDY, "source": SPEC, "runs": {RUN: {"differs": {KEY: VALUE}, "left": true}}}

`left` is there only where the newest sweep has no such point.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jobs.errors import UserError
from jobs.quantities import plural
from jobs.run.records import StudyEntry, StudyFile
from jobs.spec.reading.sweep import Study
from jobs.storage.files import write_json
from jobs.storage.locks import locked
from jobs.storage.typed import read_record

WAIT_S = 60.0
"""Another process holds the lock of a study for moments."""
NAMED = 5
"""Runs that a sentence names."""


def study_file(folder: Path) -> Path:
    """Return study.json of the study in `folder`."""
    return folder / "study.json"


def read_study_file(study: Path) -> StudyFile:
    """Read study.json. Raises FileNotFoundError, or UserError if the file is damaged."""
    file = study_file(study)
    found = read_record(file, StudyFile)
    for name in found.runs:
        if name in ("", ".", "..") or "/" in name or "\0" in name or len(os.fsencode(name)) > 255:
            raise UserError(f"{file}: not as iddpm writes this file: runs: {name[:40]!r} is not the name of a folder")
    return found


def study_as_found(study: Path) -> tuple[StudyFile, list[str]]:
    """Read study.json; where it is damaged, take the runs' folders instead. The list says so, and why.

    Raises FileNotFoundError, and UserError if there are no such folders either.
    """
    try:
        return read_study_file(study), []
    except UserError as error:
        names = sorted(_run_folders(study))
        if not names:
            raise
        return StudyFile({name: StudyEntry() for name in names}), [
            f"{error}; shown are the folders with a spec"]


def _run_folders(study: Path) -> Iterator[str]:
    try:
        with os.scandir(study) as entries:
            yield from (entry.name for entry in entries if os.path.lexists(os.path.join(entry.path, "spec.yaml")))
    except OSError:
        return


def recorded_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of the runs by name, in their order; none without the file. Raises UserError where it is damaged."""
    try:
        found = read_study_file(folder).runs
    except FileNotFoundError:
        return {}
    except UserError as error:
        raise UserError(f"{error}; remove it, and `iddpm run` or `iddpm submit` writes it again") from error
    return {name: {"differs": entry.differs} | ({"left": True} if entry.left else {}) for name, entry in found.items()}


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Let no other process add runs to the study in `folder`, or remove any, while the block lasts."""
    with locked(folder / "study.lock", f"{folder}: another process changes this study", wait=WAIT_S):
        yield


def record_study(study: Study, folder: Path) -> None:
    """Write the study's runs into study.json. Runs of earlier sweeps with this name stay, marked as left."""
    if not is_recorded(study, folder):
        write_json(study_file(folder), {"name": study.name, "source": str(study.source), "runs": _entries(study, folder)})


def is_recorded(study: Study, folder: Path) -> bool:
    """Return whether study.json has the runs of the study, and marks all others as left."""
    return recorded_runs(folder) == _entries(study, folder)


def _entries(study: Study, folder: Path) -> dict[str, dict[str, Any]]:
    left = {name: entry | {"left": True} for name, entry in recorded_runs(folder).items()}
    return left | {run.name: {"differs": run.differs} for run in study.runs}


def forget_runs(folder: Path, names: Collection[str]) -> None:
    """Take runs out of study.json, if they are there. The caller holds the lock of `changing`."""
    found: dict[str, dict[str, Any]] = {}
    with suppress(UserError):  # a damaged file lists no run; the folders do
        found = recorded_runs(folder)
    if found.keys() & set(names):
        content, kept = read_study_file(folder), {name: entry for name, entry in found.items() if name not in names}
        write_json(study_file(folder), {"name": content.name, "source": content.source, "runs": kept})


def left_of(folder: Path) -> list[str]:
    """Return the runs of the study in `folder` that left the sweep; none where study.json is damaged."""
    with suppress(UserError):
        return [name for name, entry in recorded_runs(folder).items() if entry.get("left")]
    return []


def names_of(runs: Sequence[str]) -> str:
    """Return the names of runs for a sentence, the first few of many."""
    return ", ".join(runs[:NAMED]) + (f" and {len(runs) - NAMED:,} more" if len(runs) > NAMED else "")


def left_words(left: Sequence[str], folder: Path) -> str:
    """Return the names of the runs that left the sweep, and how to drop them."""
    return f"{names_of(left)}; `iddpm rm {folder} --left` drops {'it' if len(left) == 1 else 'them'}, and asks first"


def left_note(study: Study, runs_folder: Path) -> str | None:
    """Return a sentence that names the runs which left the sweep, and how to drop them; None where there are none."""
    folder, today = runs_folder / study.name, {run.name for run in study.runs}
    left = [name for name in recorded_runs(folder) if name not in today]
    if not left:
        return None
    return (f"{plural(len(left), 'run')} of {folder} left the sweep, since {study.source} has no such point any more; nothing is "
            f"done for {'it' if len(left) == 1 else 'them'}: {left_words(left, folder)}")
