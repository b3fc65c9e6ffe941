"""The code as it is at submission, kept with the study: what somebody edits meanwhile does not reach queued jobs."""

import hashlib
from pathlib import Path

from jobs.run.provenance import provenance
from jobs.storage.files import atomic_path, json_text

CODE = Path(__file__).resolve().parents[2]
PACKAGES = ("diffusion", "jobs", "slurm")


def snapshot(study: Path) -> Path:
    """Copy the program's files, uncommitted changes and new files included, to study/code/HASH; return that folder.

    The same code goes to the same folder. provenance.json in it tells the commit and the difference from it.
    """
    modules = {file.relative_to(CODE): file.read_bytes()
               for package in PACKAGES for file in sorted((CODE / package).rglob("*"))
               if file.is_file() and "__pycache__" not in file.parts}
    digest = hashlib.sha256()
    for name, content in modules.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    folder = study / "code" / digest.hexdigest()[:12]
    if not folder.exists():
        with atomic_path(folder) as temporary:
            for name, content in modules.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).write_bytes(content)
            (temporary / "provenance.json").write_text(json_text(provenance()), encoding="utf-8")
    return folder
