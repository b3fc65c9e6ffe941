"""Runs of a study that share one training: their specs differ in nothing that weights depend on, such as in `sample` alone.

One of them trains. In the folder of each other run, `checkpoints` is a link to ../NAME/checkpoints, which is how a run finds its
weights and says that it shares (`RunDir.shares`). Runs that exist keep the training that they have; a new run joins one.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path

from jobs.errors import UserError
from jobs.run.directory import MOST_SPEC_BYTES, RunDir, shares_of
from jobs.run.guides import kept_for_others
from jobs.run.study.changes import Change, steps_there
from jobs.run.study.study_file import recorded_runs
from jobs.spec.kinds import draws_samples
from jobs.spec.reading.frozen import parse_frozen
from jobs.spec.samplings import steps_kept_for_good
from jobs.spec.sections import Spec
from jobs.storage.files import make_dir, read_bytes


def training_of(name: str, spec: Spec) -> str:
    """Return all of `spec` that its training depends on, as text: runs of one text share a training.

    A run of a kind that draws no samples has a training of its own, by its name.
    """
    return spec.model_dump_json(exclude={"sample", "evaluate", "resources"}) if draws_samples(spec) else name


def shared_in(specs: Mapping[str, Spec]) -> dict[str, str]:
    """Return, by name, the runs of a new study that another run trains for, and that run: the first of equal training."""
    if len(specs) < 2:
        return {}
    first: dict[str, str] = {}
    trainers = {name: first.setdefault(training_of(name, spec), name) for name, spec in specs.items()}
    return {name: trainer for name, trainer in trainers.items() if name != trainer}


def sharers(run: RunDir) -> list[RunDir]:
    """Return the other runs of the study that take their weights from `run`."""
    with suppress(OSError), os.scandir(run.path.parent) as entries:
        return [RunDir(Path(entry.path)) for entry in sorted(entries, key=lambda entry: entry.name)
                if not entry.name.startswith(".") and shares_of(Path(entry.path)) == run.path.name]
    return []


def sampled_steps(run: RunDir) -> set[int]:
    """Return the training steps whose checkpoints are kept because `run`, or a run that shares its training, uses them, or
    because they guide other runs."""
    steps = steps_kept_for_good(run.spec) | kept_for_others(run)
    for other in sharers(run):
        with suppress(OSError, UserError, ValueError):  # a spec that cannot be read samples nothing
            steps |= _steps_of(read_bytes(other.spec_file, MOST_SPEC_BYTES).decode("utf-8"))
    return steps


@lru_cache(maxsize=20_000)  # training asks at every checkpoint, and parsing takes 10 ms a run
def _steps_of(text: str) -> frozenset[int]:
    """Return the training steps whose checkpoints a run with the frozen spec `text` uses."""
    return frozenset(steps_kept_for_good(parse_frozen(text, "spec.yaml")))


def with_trainers(changes: Sequence[Change], folder: Path) -> list[Change]:
    """Give each new run the run that trains for it, if there is one: a run that exists, else the first new one of its training.

    So it is with a run that exists, and whose trainer was deleted by hand.

    Raises UserError where the training of a run that exists has passed a step whose checkpoint a new run needs and is gone, or
    where the number of steps would change for a run whose trainer left the sweep.
    """
    names, alone = {change.run.path.name for change in changes}, _orphans(changes)
    for change in changes:
        if change.longer and change.run.shares and change.run.shares not in names:
            raise UserError(f"run {change.run.path} shares the training of {change.run.shares}, which left the sweep, so it "
                            "keeps its number of steps. Give the study another name")
    if not alone and not any(change.is_new for change in changes) or len(changes) == 1 and not recorded_runs(folder):
        return list(changes)
    trainers = _trainers([change for change in changes if change.run not in alone], folder, names)
    found, kept = [], cache(sampled_steps)
    for change in changes:
        if change.run in alone:
            change = replace(change, relinks=True)
        if change.is_new or change.relinks:
            trainer = trainers.setdefault(training_of(change.run.path.name, change.spec), RunDir(change.run.path, change.spec))
            if trainer.path != change.run.path:
                change = _joined(change, trainer, kept)
        found.append(change)
    return found


def _orphans(changes: Sequence[Change]) -> set[RunDir]:
    """Return the runs that exist and share the training of a run that is gone, and that is not made anew."""
    new = {change.run.path.name for change in changes if change.is_new}
    return {change.run for change in changes if not change.is_new and (shares := change.run.shares) and shares not in new
            and not change.run.trainer.spec_file.is_file()}


def _trainers(changes: Sequence[Change], folder: Path, names: Collection[str]) -> dict[str, RunDir]:
    """Return the runs that exist and train, by what their training depends on; of several the one that is furthest.

    `names`: the runs of the sweep; others in `folder` have left it.
    """
    there = {change.run: change.spec for change in changes if not change.is_new}
    for name in recorded_runs(folder):
        run = RunDir(folder / name)
        if name not in names and not run.shares:  # parsing takes 10 ms a run, and its trainer answers for a run that shares
            with suppress(UserError):  # a spec that cannot be read
                there[run] = run.spec
    found: dict[str, RunDir] = {}
    made = {change.run for change in changes if change.is_new}
    for run, spec in there.items():
        training = training_of(run.path.name, spec)
        if not run.trainer.spec_file.is_file() and run.trainer not in made:
            continue
        if training not in found or run.trainer.trained_steps() > found[training].trained_steps():
            found[training] = run.trainer
    return found


def _joined(change: Change, trainer: RunDir, kept: Callable[[RunDir], set[int]]) -> Change:
    """Return `change` of a new run that joins the training of `trainer`. Raises UserError as `with_trainers` does.

    `kept`: `sampled_steps`, which remembers its answers.
    """
    if not trainer.spec_file.is_file():
        return replace(change, shares=trainer.path.name)
    reached = trainer.trained_steps()
    steps = steps_kept_for_good(change.spec)
    gone = sorted(step for step in steps if step <= reached
                  and not (trainer.checkpoint_folder(step) / "manifest.json").is_file())
    if gone:
        raise UserError(f"run {change.run.path}: sample.at: its training is that of {trainer.path}, which is at step {reached}, "
                        f"and no checkpoint of step {', '.join(map(str, gone))} is there any more. sample.at can name "
                        f"{steps_there(trainer)}. Or give the study another name")
    unsaved = reached < change.spec.train.iterations and not (
        steps <= steps_kept_for_good(trainer.spec) or steps <= kept(trainer))  # mostly no other spec needs to be parsed
    return replace(change, shares=trainer.path.name, careful=unsaved)


def link(run: Path, trainer: str | None) -> None:
    """Let the run in the folder `run` take its weights from the run `trainer`; None: from its own training."""
    place, temporary = run / "checkpoints", run / ".checkpoints.link"
    if shares_of(run) == trainer:
        return
    if trainer is not None:
        make_dir(run)
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path("..", trainer, "checkpoints"))
        temporary.replace(place)
    elif place.is_symlink():  # of a study that was stopped while it was made, or of a trainer that is gone
        place.unlink()


def needed_by(study: Path, names: Collection[str]) -> dict[str, list[str]]:
    """Return those of the runs `names` that train for a run that is not among them, and by each these other runs."""
    found: dict[str, list[str]] = {}
    with suppress(OSError), os.scandir(study) as entries:
        for other in sorted(entry.name for entry in entries if entry.name not in names and not entry.name.startswith(".")):
            if (trainer := shares_of(study / other)) in names:
                found.setdefault(str(trainer), []).append(other)
    return found
