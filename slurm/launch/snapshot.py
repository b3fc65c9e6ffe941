"""Copy the code of a submission into the study: later edits do not change jobs that wait in the queue."""

import hashlib
from pathlib import Path

from jobs.run.provenance import provenance
from jobs.storage.files import atomic_path, json_text

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("diffusion", "jobs", "slurm")
# Modules, and the files that modules read: templates and styles of the report, built-in data; what batch scripts read.
PATTERNS = ("*.py", "*.html", "*.css", "*.js", "*.npz", "*.sh", "py.typed")


def snapshot(study: Path) -> Path:
    """Copy the three packages, with uncommitted changes and new files, to study/code/HASH; return that folder.

    Equal code goes to the same folder. Its provenance.json has the commit and the difference from it.
    """
    files = {file.relative_to(ROOT).as_posix(): file.read_bytes() for file in code_files(ROOT)}
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    folder = study / "code" / digest.hexdigest()[:12]
    if not folder.exists():
        with atomic_path(folder) as temporary:
            for name, content in files.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).write_bytes(content)
            (temporary / "provenance.json").write_text(json_text(provenance()), encoding="utf-8")
    return folder


def code_files(root: Path) -> list[Path]:
    """All files below `root` that a job needs, in the order of their paths."""
    return sorted(file for package in PACKAGES for pattern in PATTERNS for file in (root / package).rglob(pattern))
