"""The guides of samplings: other runs, or earlier checkpoints, whose weights a sampling needs beside its own.

A checkpoint that guides is kept for good in the run that it belongs to. A run that guides another one learns that from the
files kept_for/*.json in its folder, each written by the study that names it.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.run.records import KeptForFile
from jobs.spec.kinds import Guide, kind_of
from jobs.spec.reading.sweep import Study
from jobs.spec.references import is_in_study
from jobs.spec.samplings import guided, steps_kept_for_good
from jobs.spec.sections import Spec
from jobs.storage.files import json_text, sha256_of_json, write_texts
from jobs.storage.typed import read_record

FOLDER = "kept_for"


def guide_run(run: RunDir, guide: Guide) -> RunDir:
    """Return the run whose weights guide a sampling of `run`."""
    if guide.run is None:
        return run
    return RunDir(run.path.parent / guide.run if is_in_study(guide.run) else Path(guide.run))


def kept_for_others(run: RunDir) -> set[int]:
    """Return the training steps whose checkpoints `run` keeps because they guide samplings of other runs."""
    found = set[int]()
    for file in sorted((run.path / FOLDER).glob("*.json")):
        with suppress(OSError, UserError):  # a damaged file: the study that wrote it writes it again
            found |= set(read_record(file, KeptForFile).steps)
    return found


def foreign_guide_problems(specs: Sequence[Spec]) -> list[str]:
    """Return why runs of other studies cannot guide samplings of the `specs`, each once, as far as these runs exist."""
    found: dict[str, None] = {}
    opened = cache(RunDir)  # many samplings name one guide, and parsing takes 10 ms
    for spec in specs:
        for own, guide, place in guided(spec):
            if guide.run is None or is_in_study(guide.run) or not (other := opened(Path(guide.run))).spec_file.is_file():
                continue
            found |= {f"{place(key)}: {message}": None for key, message in kind_of(own).guide_problems(own, other.spec)}
            found |= {f"{place('sample.guidance.at')}: {problem}": None for problem in _gone(other, guide)}
    return list(found)


def check_guides(study: Study, folder: Path) -> None:
    """Raise UserError where a guide of a run of `study`, in the folder `folder`, is gone, or cannot be kept any more."""
    opened = dict[RunDir, RunDir]()  # many samplings name one guide, and parsing takes 10 ms
    for run in study.runs:
        for _, guide, place in guided(run.spec):
            other = guide_run(RunDir(folder / run.name), guide)
            other = opened.setdefault(other, other)
            if guide.run is None or not other.spec_file.is_file():  # its own checkpoints: jobs.run.study.changes
                continue
            for problem in _gone(other, guide):
                raise UserError(f"{study.source}: {place('sample.guidance.at')}: {problem}; in run {run.name}")
            step, saved_anyway = guide.step or 0, other.spec.train.save_interval
            kept = steps_kept_for_good(other.spec) | kept_for_others(other.trainer)
            if step > other.trained_steps() and step % saved_anyway and step not in kept:
                with other.trainer.exclusively():  # training that is under way does not know of this step
                    pass


def _gone(other: RunDir, guide: Guide) -> Iterator[str]:
    step = guide.step
    if step and step <= other.trained_steps() and not (other.checkpoint_folder(step) / "manifest.json").is_file():
        there = ", ".join(str(int(folder.name.removeprefix("step-"))) for folder in other.checkpoint_folders())
        yield f"no checkpoint of step {step} is in {other.path} any more; there are those of {there}"


def record_guides(study: Study, folder: Path) -> None:
    """Let the runs that guide runs of `study`, in the folder `folder`, know which of their checkpoints to keep."""
    files: dict[Path, str] = {}
    steps: dict[tuple[RunDir, str], set[int]] = {}
    for run in study.runs:
        for _, guide, _ in guided(run.spec):
            if guide.run is not None and guide.step is not None:
                path = folder / run.name
                steps.setdefault((guide_run(RunDir(path), guide), str(path.resolve())), set()).add(guide.step)
    for (other, by), wanted in steps.items():
        file = other.trainer.path / FOLDER / f"{sha256_of_json(by)[:16]}.json"
        text = json_text({"run": by, "steps": sorted(wanted)})
        if other.spec_file.is_file() and not (file.is_file() and file.read_text(encoding="utf-8") == text):
            files[file] = text
    write_texts(files)
