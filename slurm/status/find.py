"""Find the study that a command is about."""

import os
from pathlib import Path

from jobs.errors import UserError
from jobs.storage.disk_errors import why_missing


def find_study(study: Path | None, runs_folder: Path) -> Path:
    """The folder of `study`, a path or a name in `runs_folder`; for None, the study there that changed last.

    Raises UserError if there is none.
    """
    if study is None:
        studies = [folder for folder in _folders(runs_folder) if os.path.lexists(folder / "study.json")]
        if not studies:
            raise UserError(why_missing(runs_folder) or f"{runs_folder}: no study here; `iddpm run SPEC` and `iddpm submit SPEC` "
                            "make studies, --runs names another folder")
        return studies[0] if len(studies) == 1 else max(studies, key=_changed)
    for path in (study, runs_folder / study):
        if os.path.lexists(path / "study.json"):
            return path
    raise UserError(why_missing(study / "study.json")
                    or f"{study}: not a study's directory (it has no study.json); studies are in {runs_folder}/")


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()]
    except OSError:
        return []


def _changed(study: Path) -> float:
    """When a file of the study or of a run was last created or renamed. Each heartbeat renames a file of its run."""
    try:
        with os.scandir(study) as entries:
            return max((entry.stat(follow_symlinks=False).st_mtime for entry in entries), default=0.0)
    except OSError:
        return 0.0
