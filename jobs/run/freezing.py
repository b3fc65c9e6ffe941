"""Write the specs of a study's runs into their directories, and refuse specs that would change existing results."""

from pathlib import Path

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.run.provenance import provenance
from jobs.spec.reading.frozen import difference, dump
from jobs.spec.reading.sweep import Study
from jobs.storage.files import json_text, read_json, write_json, write_texts

# Keys that may change under an existing run, because they do not change its weights and samples.
FREE_TO_CHANGE = ("resources", "train.log_interval", "train.save_interval", "train.keep_interval", "sample.at", "evaluate")


def refuse_changes(study: Study, runs_folder: Path) -> list[RunDir]:
    """The directories of the study's runs. Raises UserError if one exists and holds another spec."""
    directories = [RunDir.expected(runs_folder / study.name / run.name, run.spec) for run in study.runs]
    for run, directory in zip(study.runs, directories, strict=True):
        if directory.spec_file.is_file():
            changed = difference(directory.spec, run.spec, ignore=FREE_TO_CHANGE)
            if changed:
                raise UserError(f"{study.source}: run {directory.path} exists with another spec:\n  "
                                + "\n  ".join(changed) + "\nGive the study another name, or remove that directory.")
    return directories


def freeze(study: Study, runs_folder: Path) -> list[RunDir]:
    """Create the directories of the study's runs with their frozen specs; update existing ones where that is allowed.

    Raises UserError as `refuse_changes` does, before anything is written.
    """
    directories = refuse_changes(study, runs_folder)
    origin, files = json_text(provenance()), dict[Path, str]()
    for run, directory in zip(study.runs, directories, strict=True):
        if not directory.spec_file.is_file():
            files |= {directory.path / "provenance.json": origin, directory.spec_file: dump(run.spec)}
        elif difference(directory.spec, run.spec):
            files[directory.spec_file] = dump(run.spec)
    write_texts(files)
    _record_study(study, runs_folder / study.name)
    return [RunDir(directory.path) for directory in directories]


def _record_study(study: Study, folder: Path) -> None:
    """Add the study's runs to study.json. Runs of earlier sweeps with this name stay."""
    file = folder / "study.json"
    known = read_json(file)["runs"] if file.is_file() else {}
    runs = known | {run.name: {"differs": run.differs} for run in study.runs}
    if runs != known:
        write_json(file, {"name": study.name, "source": str(study.source), "runs": runs})
