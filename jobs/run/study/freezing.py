"""Write the specs of a study's runs into their directories, and refuse specs that would change existing results."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jobs.errors import UserError
from jobs.quantities import plural
from jobs.run.directory import RunDir
from jobs.run.guides import check_guides, record_guides
from jobs.run.progress import note
from jobs.run.provenance import provenance
from jobs.run.start_weights import origin
from jobs.run.study.changes import Change, make_room, planned_change
from jobs.run.study.sharing import link, with_trainers
from jobs.run.study.study_file import changing, is_recorded, record_study
from jobs.spec.reading.frozen import dump
from jobs.spec.reading.sweep import Study
from jobs.spec.sampling_names import folder_name
from jobs.spec.samplings import samplings
from jobs.spec.sections import Spec
from jobs.storage.files import json_text, make_dir, write_text, write_texts
from jobs.storage.names import listed


def refuse_changes(study: Study, runs_folder: Path, queued: Collection[str] = ()) -> list[Change]:
    """Return what freezing does to each run. Raises UserError where a run exists and holds a spec that must not change so.

    `queued`: names of the runs with jobs in the queue, which count on the results that are there.
    """
    changes = []
    for run in study.runs:
        change = _planned(study, RunDir.expected(runs_folder / study.name / run.name, run.spec), run.spec)
        if change.redo and run.name in queued:
            raise UserError(f"{study.source}: run {change.run.path} has jobs in the queue, which rely on the old number of steps "
                            f"or samples; `iddpm cancel {change.run.path}` first, or wait for them")
        changes.append(change)
    try:
        changes = with_trainers(changes, runs_folder / study.name)
    except UserError as error:
        raise UserError(f"{study.source}: {error}") from error
    for change in changes:
        if change.careful:
            with _undisturbed(change):  # a busy run raises here, before anything is written
                pass
    check_guides(study, runs_folder / study.name)
    return changes


@contextmanager
def _undisturbed(change: Change) -> Iterator[None]:
    """Lock the run, and the run that trains for it, as far as they exist. Raises Busy where a stage is at work."""
    trainer = RunDir(change.run.path.parent / change.shares) if change.shares else change.run.trainer
    with ExitStack() as held:
        for run in dict.fromkeys([change.run, trainer]):
            if run.spec_file.is_file():
                held.enter_context(run.exclusively())
        yield


def _planned(study: Study, run: RunDir, spec: Spec) -> Change:
    try:
        return planned_change(run, spec)
    except UserError as error:
        raise UserError(f"{study.source}: {error}") from error


def tell_of_left_samplings(change: Change) -> None:
    """Print which samplings the spec of a run no longer asks for."""
    if change.is_new or not change.writes or change.longer:
        return
    old, kept = change.run.spec, set(samplings(change.spec))
    if gone := [sampling for sampling in samplings(old) if sampling not in kept]:
        names = listed(folder_name(old, sampling) for sampling in gone)
        note(f"{change.run.path}: its spec no longer asks for {plural(len(gone), 'sampling')} ({names}); the samples stay, and "
             "count again once the spec asks for them")


def freeze(study: Study, runs_folder: Path, queued: Collection[str] = ()) -> list[RunDir]:
    """Create the directories of the study's runs with their frozen specs; update existing ones where that is allowed.

    Raises UserError as `refuse_changes` does, before anything is written.
    """
    changes = refuse_changes(study, runs_folder, queued)
    if not any(change.writes for change in changes) and is_recorded(study, runs_folder / study.name):
        record_guides(study, runs_folder / study.name)
        return [RunDir(change.run.path) for change in changes]
    with changing(make_dir(runs_folder / study.name)):
        # Another process may have been faster. What is planned again are the changes that would harm its runs.
        changes = with_trainers([change if not (change.is_new or change.careful) else
                                 _planned(study, RunDir.expected(change.run.path, run.spec), run.spec)
                                 for change, run in zip(changes, study.runs, strict=True)], runs_folder / study.name)
        for change in changes:
            tell_of_left_samplings(change)
        came_from = provenance()
        files = {change.run.path / "provenance.json": json_text(came_from | origin(change.spec))
                 for change in changes if change.is_new}
        for change in changes:
            if change.is_new or change.relinks:
                link(change.run.path, change.shares)
            if change.is_new and change.careful:
                with _undisturbed(change):
                    write_texts({change.run.spec_file: dump(change.spec)})
            elif change.is_new:
                files[change.run.spec_file] = dump(change.spec)
            elif change.careful:
                with _undisturbed(change):
                    write_text(change.run.spec_file, dump(make_room(change)))
            elif change.writes:
                files[change.run.spec_file] = dump(change.spec)
        write_texts(files)
        record_guides(study, runs_folder / study.name)
        record_study(study, runs_folder / study.name)
    return [RunDir(change.run.path) for change in changes]
