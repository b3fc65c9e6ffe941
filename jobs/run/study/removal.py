"""Remove runs from a study: what goes, what forbids it, and the removal itself.

A run's folder is first renamed, then taken out of study.json, then deleted. A process that is killed in between leaves no half
run: at most a hidden folder NAME.removed, which the next removal deletes, or an entry of study.json without a folder, which the
same command removes. Links are removed, never what they lead to.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from jobs.errors import UserError
from jobs.quantities import plural, size
from jobs.run.directory import RunDir
from jobs.run.study.sharing import needed_by
from jobs.run.study.study_file import changing, forget_runs, names_of, study_as_found, study_file
from jobs.run.waiting import named_by
from jobs.storage.disk_errors import disk_errors_explained
from jobs.storage.locks import locked

REMOVED = ".removed"
# All that iddpm writes into the folder of a study beside its runs.
OWN_FILES = ("study.json", "submissions", "logs", "code", "plan.json", "held.json", "waiting.json", "nodes.json", "report.*",
             "*.lock", "*.lock.held", ".*.tmp*", f".*{REMOVED}", ".nfs*")


@dataclass(frozen=True)
class Doomed:
    """A run that would be removed."""

    path: Path
    link: str | None
    """Where the run's folder leads if it is a link: only the link goes."""
    bytes: int
    steps: int
    """Of the newest checkpoint."""
    checkpoints: int
    has_samples: bool
    is_evaluated: bool
    shares: str | None = None
    """The run whose training it shares: the checkpoints stay there."""


def runs_of(study: Path) -> list[str]:
    """Return the names of the study's runs: those of study.json, and folders of runs that it does not list."""
    listed: list[str] = []
    with suppress(OSError, UserError):  # without study.json, or where it is damaged, the folders tell
        listed = [name for name in study_as_found(study)[0].runs if _is_plain(name)]
    folders = sorted(path.name for path in study.iterdir() if _is_plain(path.name) and (path / "spec.yaml").is_file())
    return list(dict.fromkeys([*listed, *folders]))


def _is_plain(name: str) -> bool:
    return bool(name) and "/" not in name and not name.startswith(".")


def chosen_runs(study: Path, wanted: Collection[str]) -> list[str]:
    """Return the names of the runs that the words `wanted` mean: names, or paths of folders in `study`. Raises UserError."""
    there, chosen = runs_of(study), []
    for word in wanted:
        path = Path(word)
        inside = len(path.parts) > 1 and path.parent.resolve() == study.resolve()
        name = path.name if inside else word
        if name not in there:
            near = get_close_matches(name, there, n=1)
            known = f"its runs are {', '.join(there[:5])}{', ...' if len(there) > 5 else ''}" if there else "it has no runs"
            raise UserError(f"{study}: has no run {word}; {f'did you mean {near[0]}?' if near else known}")
        chosen.append(name)
    return list(dict.fromkeys(chosen))


def doomed(study: Path, name: str) -> Doomed:
    """Return what would go with the run `name`. Reads no weights, and follows no link."""
    run = RunDir(study / name)
    if run.path.is_symlink():
        return Doomed(run.path, os.readlink(run.path), 0, 0, 0, False, False)
    return Doomed(run.path, None, _size(run.path), run.trained_steps(), len(run.checkpoint_folders()), run.samples_h5.exists(),
                  run.evaluation.exists(), run.shares)


def _size(folder: Path) -> int:
    """Return the bytes of all files in `folder`."""
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):  # removed just now
                total += os.lstat(os.path.join(place, file)).st_size
    return total


def named_elsewhere(study: Path, names: Collection[str]) -> dict[str, str]:
    """Return, by name, one run outside `names` whose spec names this run."""
    found: dict[str, str] = {}
    for run, _, other in named_by([RunDir(study / name) for name in names], study.parent):
        if other.path.parent.resolve() != study.resolve() or other.path.name not in names:
            found.setdefault(run.path.name, str(other.path))
    return found


def refuse_shared(study: Path, names: Collection[str]) -> None:
    """Raise UserError where one of the runs trains for a run that stays."""
    if needed := needed_by(study, set(names)):
        raise UserError("\n".join(f"{study / name}: its training is shared by {names_of(others)}, so it stays; remove "
                                  "those first, or all together" for name, others in needed.items()))


def refuse_busy(study: Path, names: Collection[str]) -> None:
    """Raise Busy where a process is at work on one of the runs."""
    for name in names:
        if (study / name).is_dir():
            with _locked(study / name):
                pass


def _locked(run: Path) -> AbstractContextManager[None]:
    return locked(run / "lock", f"{run}: another process is at work on this run, so it is not removed")


def remove_runs(study: Path, names: Collection[str]) -> None:
    """Remove these runs of the study, and their entries. Raises Busy, with what came before it removed, for a run at work."""
    gone: list[str] = []
    with changing(study):
        refuse_shared(study, names)  # a run may have joined since
        try:
            for name in names:
                _set_aside(study / name)
                gone.append(name)
        finally:
            forget_runs(study, gone)
    collect(study)


def _set_aside(run: Path) -> None:
    with disk_errors_explained(run):
        if run.is_symlink():
            run.unlink()
        elif run.is_dir():
            with _locked(run):
                run.rename(run.with_name(f".{run.name}.{os.uname().nodename}-{os.getpid()}{REMOVED}"))


def collect(study: Path) -> None:
    """Delete the folders that were set aside, also by a removal that was killed."""
    for folder in study.glob(f".*{REMOVED}"):
        if not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)  # another process may be deleting this folder, too


def kept_files(study: Path) -> list[str]:
    """Return the names in the study's folder that iddpm did not write."""
    runs = {*runs_of(study)}
    return sorted(path.name for path in study.iterdir()
                  if path.name not in runs and not any(path.match(pattern) for pattern in OWN_FILES))


def remove_study(study: Path) -> list[str]:
    """Remove the folder of a study without runs. Return the names of files that iddpm did not write, and which stay there."""
    kept = kept_files(study)
    # study.json goes last, because commands find the study by this file.
    for path in sorted(study.iterdir(), key=lambda path: path == study_file(study)):
        if path.name not in kept:
            with disk_errors_explained(path):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    if not kept:
        with suppress(OSError):  # a file appeared just now
            study.rmdir()
    return kept


def lines_of(runs: Collection[Doomed]) -> Iterator[str]:
    """Yield a line for each run: what it has, and how much."""
    width = max((len(run.path.name) for run in runs), default=0)
    for run in runs:
        if run.link is not None:
            yield f"  {run.path.name:<{width}}  a link to {run.link}; only the link goes"
            continue
        trained = [f"trained to step {run.steps}" if run.steps else "not trained", plural(run.checkpoints, "checkpoint")]
        words = [size(run.bytes), *([f"the training of {run.shares} stays"] if run.shares else trained),
                 *(["samples"] if run.has_samples else []), *(["evaluated"] if run.is_evaluated else [])]
        yield f"  {run.path.name:<{width}}  {', '.join(words)}"
