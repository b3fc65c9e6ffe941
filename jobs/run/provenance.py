"""Record where results come from: the code, the packages, the machine, the command."""

import os
import platform
import socket
import subprocess
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from jobs.errors import UserError
from jobs.storage.files import read_json

PACKAGES = ("iddpm", "torch", "numpy", "h5py", "pydantic", "pillow", "submitit", "safetensors", "tensorboard")


@cache
def package_versions() -> dict[str, str]:
    """Version by name of each package of PACKAGES that is installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return versions


def provenance() -> dict:
    """Time, command, commit and uncommitted patch of this code (None outside a git checkout), packages, host, user."""
    return {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": sys.argv, "commit": _git("rev-parse", "HEAD"),
            "dirty_patch": _git("diff", "HEAD"), "python": platform.python_version(), "packages": package_versions(),
            "host": socket.gethostname(), "system": platform.platform(), "user": os.environ.get("USER")}


def recorded_provenance(run: Path) -> dict[str, Any]:
    """Return what provenance.json of the run in the folder `run` holds; nothing where the file is missing or damaged."""
    try:
        found = read_json(run / "provenance.json")
    except (OSError, UserError):
        return {}
    return found if isinstance(found, dict) else {}


def _git(*arguments: str) -> str | None:
    """Output of a git command in this code's checkout; None if there is no checkout or git fails."""
    code = Path(__file__).resolve().parents[2]
    if not (code / ".git").exists():  # installed: a repository around the installation is not ours
        return None
    try:
        done = subprocess.run(["git", "-C", code, *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.rstrip("\n") if done.returncode == 0 else None
