"""Checks that the disk has room for a study."""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from jobs.cost.count import stored_bytes
from jobs.errors import UserError
from jobs.quantities import size
from jobs.run.study.sharing import shared_in
from jobs.spec.sections import Spec


def check_disk(specs: Mapping[str, Spec], study: Path) -> str:
    """In words, the bytes that the runs (specs by name) will still write into the folder `study`, and the free bytes.

    Raises UserError where the runs will write more than is free.
    """
    wanted = sum(max(stored - bytes_below(study / name), 0) for name, stored in bytes_by_run(specs).items())
    existing = next(parent for parent in (study, *study.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if wanted > free:
        raise UserError(f"{study}: the runs will store about {size(wanted)} more, but {size(free)} are free there; free some "
                        "space, lower sample.num_samples, raise train.keep_interval, or choose another folder (--runs)")
    return f"about {size(wanted)} more on disk ({size(free)} free)"


def bytes_by_run(specs: Mapping[str, Spec]) -> dict[str, int]:
    """Bytes that each run leaves on disk, by name. The checkpoints of a training that runs share count once."""
    shared = shared_in(specs)
    trained_for: dict[str, list[Spec]] = {}
    for name, trainer in shared.items():
        trained_for.setdefault(trainer, []).append(specs[name])
    return {name: stored_bytes(spec, None if name in shared else trained_for.get(name, [])) for name, spec in specs.items()}


def bytes_below(folder: Path) -> int:
    """Bytes of all files below `folder`; 0 where there is no such folder."""
    found = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a running job renames and removes files
                found += os.stat(os.path.join(parent, name)).st_size
    return found
