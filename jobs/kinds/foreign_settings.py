"""Settings of other code's weights: those that names and shapes tell, and those that a person has to write down.

Several settings change what weights compute but not their shapes, so a wrong one loads and gives garbage. A default of ours
is no answer there: only a setting that is written in the spec counts.
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.errors import UserError
from jobs.kinds.foreign_weights import StateDict
from jobs.spec.keys import written_at
from jobs.spec.kinds import KINDS, kind_named
from jobs.spec.reading.file import load, written_values
from jobs.spec.reading.sweep import Study
from jobs.spec.sections import DEFAULT_KIND


def settled(source: Path, read: StateDict, spec: Path, overrides: Sequence[str],
            also_told: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None) -> tuple[Study, list[str]]:
    """Return the study of `spec` with all settings that the weights `read` in the file `source` tell, and these as overrides.

    `also_told`: returns the settings that other files tell, by dotted key, for what the spec says. Settings that are written stay
    as they are. Raises UserError for a sweep of several runs and, with a line for each, where settings are not written that no
    weights tell; weights with a spec inside need none of them.
    """
    written = _written(spec, overrides)
    if (name := written.get("kind", DEFAULT_KIND)) not in KINDS:
        return load(spec, overrides), []  # raises
    kind = kind_named(str(name))
    told = kind.told_by_weights(read.shapes, written)
    missing = kind.untold_by_weights(written, told) if told and "spec" not in read.metadata else {}
    if missing:
        lines = "".join(f"\n  {key}: {hint}" for key, hint in missing.items())
        raise UserError(f"{source}: neither names nor shapes of weights tell these settings, and a wrong one loads and gives "
                        f"garbage; write them in {spec} (a default does not count):{lines}")
    if also_told is not None:
        told = {**told, **also_told(written)}
    found = _needed({key: value for key, value in told.items() if not written_at(written, key)[0]}, spec, overrides)
    return load(spec, [*overrides, *found]), found


def _written(spec: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Return what the spec says, without defaults. A sweep of one run says its settings, too; one of several is refused."""
    written = written_values(spec, overrides)
    if written.pop("sweep", None) is None:
        return written
    study = load(spec, overrides)
    if len(study.runs) > 1:
        raise UserError(f"{spec}: a checkpoint goes into one run, but this spec is a sweep of {len(study.runs)}")
    return study.written_of(study.runs[0])


def _needed(told: Mapping[str, Any], spec: Path, overrides: Sequence[str]) -> list[str]:
    """Return the settings `told`, as overrides, without those that `spec` has by default."""
    found = {key: f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
             for key, value in told.items()}
    whole = load(spec, [*overrides, *found.values()]).runs[0].spec
    for key in told:
        fewer = [setting for other, setting in found.items() if other != key]
        with contextlib.suppress(UserError):  # where the others contradict the default
            if load(spec, [*overrides, *fewer]).runs[0].spec == whole:
                del found[key]
    return list(found.values())
