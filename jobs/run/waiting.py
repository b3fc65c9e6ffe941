"""Find the runs that a stage waits for: a spec names them."""

from collections.abc import Iterable
from pathlib import Path

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.spec.references import Reference, references
from jobs.spec.sections import Spec


def named_run(run: RunDir, reference: Reference) -> RunDir:
    """Return the run that `run` names: beside it, or in another study."""
    return RunDir(run.path.parent / reference.run if reference.in_study else Path(reference.run))


def waits_for(run: RunDir, stage: str) -> list[tuple[Reference, RunDir]]:
    """Return the runs that must do a stage before `stage` of `run` can start, without those that have done that stage."""
    named = [(reference, named_run(run, reference)) for reference in references(run.spec) if reference.stage == stage]
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
