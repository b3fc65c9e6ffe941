"""Whether the disk has room for what a study will store."""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from jobs.cost.count import stored_bytes
from jobs.errors import UserError
from jobs.quantities import size
from jobs.spec.sections import Spec


def check_disk(specs: Mapping[str, Spec], study: Path) -> str:
    """How much the runs, by name, will yet store in `study`, in words. Raises UserError where that is more than is free there."""
    wanted = sum(max(stored_bytes(spec) - bytes_below(study / name), 0) for name, spec in specs.items())
    existing = next(parent for parent in (study, *study.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if wanted > free:
        raise UserError(f"{study}: the runs will store about {size(wanted)} more, and {size(free)} are free there; free some, "
                        "lower sample.num_samples, raise train.keep_interval, or choose another place (--runs)")
    return f"about {size(wanted)} more on disk ({size(free)} free)"


def bytes_below(folder: Path) -> int:
    """Bytes of the files in `folder` and below; 0 where there is none."""
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a running job renames and removes
                found += os.stat(os.path.join(place, name)).st_size
    return found
