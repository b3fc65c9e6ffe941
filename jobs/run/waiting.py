"""Find the runs that a stage waits for: a spec names them."""

import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.spec.kinds import KINDS, kind_named
from jobs.spec.references import Reference, naming_fields, references
from jobs.spec.sections import Spec
from jobs.spec.stages import STAGES
from jobs.storage.files import read_bytes


def named_run(run: RunDir, reference: Reference) -> RunDir:
    """Return the run that `run` names: beside it, or in another study."""
    return RunDir(run.path.parent / reference.run if reference.in_study else Path(reference.run))


def references_of(run: RunDir) -> list[Reference]:
    """Return the runs that the spec of `run` names, and the one whose training it shares."""
    return [*references(run.spec), *shared_training(run.shares)]


def shared_training(trainer: str | None) -> list[Reference]:
    """Return what a run waits for that shares the training of `trainer`; nothing for None. No key of the spec says so."""
    return [] if trainer is None else [Reference("training", trainer, STAGES[1], STAGES[0])]


def waits_for(run: RunDir, stage: str) -> list[tuple[Reference, RunDir]]:
    """Return the runs that must do a stage before `stage` of `run` can start, without those that have done that stage."""
    named = [(reference, named_run(run, reference)) for reference in references_of(run) if reference.stage == stage]
    return [(reference, other) for reference, other in named
            if not (other.spec_file.is_file() and other.is_done(reference.needs))]


def check_named_runs(run: RunDir, stage: str) -> None:
    """Raise UserError where a run that `stage` needs has not done its part."""
    for reference, other in waits_for(run, stage):
        raise UserError(f"{run.path}: {reference.key}: {other.path} has not finished its stage {reference.needs}; "
                        f"`iddpm {reference.needs} {other.path}` does that")


def missing_runs(specs: Iterable[Spec]) -> list[str]:
    """Return a message for each run of another study that the `specs` name and that does not exist."""
    found = {f"{each.key}: {each.run}: there is no such run; run or submit its study first": None
             for spec in specs for each in references(spec)
             if not each.in_study and not RunDir(Path(each.run)).spec_file.is_file()}
    return list(found)


def named_by(runs: Collection[RunDir], studies: Path) -> list[tuple[RunDir, Reference, RunDir]]:
    """Return (run, reference, other) for each run in the folder `studies` whose spec names one of `runs`.

    Specs are searched as text first: parsing takes 10 ms a run.
    """
    if not any(naming_fields(kind_named(kind).resolved) for kind in KINDS):
        return []
    found, wanted = [], {run.path.resolve(): run for run in runs}
    names = {run.path.name for run in runs}
    for file in sorted(studies.glob("*/*/spec.yaml")):
        with suppress(OSError, ValueError, UserError):  # a spec that cannot be read starts no stage, and waits for no run
            text = read_bytes(file).decode("utf-8")
            if names.isdisjoint(map(_last_word, text.splitlines())) and "\n  samplings: [{" not in text:
                continue  # evaluate.samplings may name a run in the middle of its line
            other = RunDir(file.parent)
            found += [(wanted[path], each, other) for each in references(other.spec)
                      if (path := named_run(other, each).path.resolve()) in wanted]
    return found


def _last_word(line: str) -> str:
    """Return the last part of a path, or the only word, at the end of a line of YAML."""
    return re.split("[ /]", line.rstrip("'\"/"))[-1].lstrip("'\"")
