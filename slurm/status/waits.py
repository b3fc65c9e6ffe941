"""Find the named runs that a stage still waits for, from files alone and fast enough for ten thousand runs."""

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path

from jobs.errors import UserError
from jobs.run.directory import MOST_SPEC_BYTES, RunDir
from jobs.run.waiting import named_run, shared_training
from jobs.spec.kinds import KINDS, kind_named
from jobs.spec.reading.frozen import parse_frozen
from jobs.spec.references import Reference, naming_fields, references
from jobs.spec.stages import STAGES
from jobs.storage.files import read_bytes


def unmet(study: Path, stages: Mapping[str, str | None],
          waiting: Mapping[str, str | None]) -> dict[str, tuple[Reference, ...]]:
    """Map each run of `waiting` to the named runs that have not done what the run's next stage needs; others are left out.

    `stages`: the first stage of each run of the study that is not done; None if all are. `waiting`: by run, the run whose
    training it shares; None where it has its own.
    """
    done_elsewhere = cache(_is_done)

    def is_met(run: str, reference: Reference) -> bool:
        if not reference.in_study:
            return done_elsewhere(named_run(RunDir(study / run), reference), reference.needs)
        stage = stages.get(reference.run, STAGES[0])
        return stage is None or STAGES.index(stage) > STAGES.index(reference.needs)

    found = {run: tuple(reference for reference in _named_by(RunDir(study / run), shares)
                        if reference.stage == stages[run] and not is_met(run, reference)) for run, shares in waiting.items()}
    return {run: named for run, named in found.items() if named}


def _is_done(run: RunDir, stage: str) -> bool:
    try:
        return run.is_done(stage)
    except (UserError, OSError):  # there is no such run (here), or its spec is damaged
        return False


def _named_by(run: RunDir, shares: str | None) -> tuple[Reference, ...]:
    """As `references_of`, without the parser of YAML where the spec names no run."""
    return (*_named_in(run.spec_file), *shared_training(shares))


def _named_in(file: Path) -> tuple[Reference, ...]:
    try:
        return _references(read_bytes(file, MOST_SPEC_BYTES).decode("utf-8"))
    except (OSError, UserError, ValueError, RecursionError):
        return ()


@lru_cache(maxsize=20_000)  # for `status --watch`
def _references(text: str) -> tuple[Reference, ...]:
    """The runs that a frozen spec names. Most specs name none, and are not parsed: that takes 10 ms."""
    kind = re.search(r"^kind: (\S+)$", text, re.M)
    fields = naming_fields(kind_named(kind[1]).resolved) if kind and kind[1] in KINDS else ()
    # jobs.spec.reading.frozen.dump wrote the text: one field a line.
    if not any(re.search(rf"(^ *|[{{ ]){field}: (?!null(?:[,}}]|$))", text, re.M) for field in fields):
        return ()
    return tuple(references(parse_frozen(text, "spec.yaml")))
