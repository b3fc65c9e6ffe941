"""The directory of a run: where everything lies, and the spec that is frozen in it."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jobs.errors import Busy, UserError
from jobs.run.provenance import provenance
from jobs.spec.frozen import difference, dump, load_frozen
from jobs.spec.samplings import Sampling, folder_name, sampling_facts, samplings
from jobs.spec.sections import Spec
from jobs.spec.sweep import Study
from jobs.storage.files import json_text, read_json, write_json, write_texts

# What may change under an existing run: it does not touch the weights and samples that the run has computed.
FREE_TO_CHANGE = ("resources", "train.log_interval", "train.save_interval", "train.keep_interval", "sample.at", "evaluate")


@dataclass(frozen=True)
class RunDir:
    path: Path
    known: Spec | None = field(default=None, compare=False, repr=False)
    """The spec where the caller has it: one that is about to be frozen here, or that equals the frozen one."""

    @classmethod
    def expected(cls, path: Path, spec: Spec) -> "RunDir":
        """The run at `path`, which probably holds `spec`. Its spec.yaml is parsed only if not: large sweeps open fast."""
        file = path / "spec.yaml"
        return cls(path, spec if file.is_file() and file.read_text(encoding="utf-8") == dump(spec) else None)

    @property
    def spec_file(self) -> Path:
        return self.path / "spec.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    def samples_folder(self, sampling: Sampling) -> Path:
        """Return the folder of the chunks and samples.h5 of `sampling`: samples/ for the main one, else a folder in samples/."""
        if sampling == samplings(self.spec)[0]:
            return self.samples
        return self.samples / folder_name(self.spec, sampling)

    @property
    def samples_h5(self) -> Path:
        return self.samples / "samples.h5"

    @property
    def samples_png(self) -> Path:
        return self.samples / "samples.png"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def progress(self) -> Path:
        return self.path / "progress.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @cached_property
    def spec(self) -> Spec:
        """The frozen spec. Raises UserError where `path` is not a run's directory."""
        if self.known is not None:
            return self.known
        if not self.spec_file.is_file():
            raise UserError(f"{self.path}: not a run's directory (it has no spec.yaml); `iddpm run SPEC` makes runs/<study>/<run>")
        return load_frozen(self.spec_file)

    @property
    def differs(self) -> dict[str, Any]:
        """The swept settings of this run by dotted key, from study.json; empty where it is not of a sweep."""
        file = self.path.parent / "study.json"
        return read_json(file)["runs"].get(self.path.name, {"differs": {}})["differs"] if file.is_file() else {}

    def checkpoint_folders(self) -> list[Path]:
        """The folders step-NNNNNNNN by step. Not what a person put beside them, such as step-00001000.bak."""
        folders = [folder for folder in self.checkpoints.glob("step-*") if folder.name.removeprefix("step-").isdecimal()]
        return sorted(folders, key=lambda folder: int(folder.name.removeprefix("step-")))

    def trained_steps(self) -> int:
        """Step of the newest checkpoint whose files have their recorded sizes, 0 without one. Reads no weights."""
        for folder in reversed(self.checkpoint_folders()):
            try:
                manifest = read_json(folder / "manifest.json")
                if all((folder / name).stat().st_size == size for name, size in manifest["bytes"].items()):
                    return int(manifest["step"])
            except (OSError, UserError, KeyError, TypeError, AttributeError, ValueError):
                continue
        return 0

    def is_done(self, stage: str) -> bool:
        """Whether the results of "train", "sample" or "evaluate" are there."""
        if stage == "train":
            steps = self.trained_steps()
            return steps > 0 and steps >= self.spec.train.iterations
        if stage == "sample":
            return (all(path.exists() for path in (self.samples_h5, self.samples / "samples.npz", self.samples_png))
                    and all((self.samples_folder(sampling) / "samples.h5").exists() for sampling in samplings(self.spec)))
        return self._evaluated_as_asked()

    def _evaluated_as_asked(self) -> bool:
        """Whether evaluation.json answers what the spec asks now: its `evaluate` section may change under a run."""
        try:
            found = read_json(self.evaluation)
        except (OSError, UserError):
            return False
        if not isinstance(found, dict):
            return False
        asked = [sampling_facts(self.spec, sampling) for sampling in samplings(self.spec)]
        there = [{key: entry.get(key) for key in facts} for facts, entry in zip(asked, found.get("curve", []))]
        return found.get("settings") == self.spec.evaluate.model_dump(mode="json") and asked == there

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Keep a second job off this run while the block lasts; the system lets go when the process dies."""
        holder = self.spec_file.with_name("lock")
        self.spec  # before anything is written into what is no run's directory
        with open(holder, "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise Busy(f"{self.path}: another process is at work on this run ({file.read().strip() or 'unknown'}); "
                                "wait for it or stop it") from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield


def refuse_changes(study: Study, runs_folder: Path) -> list[RunDir]:
    """The study's directories. Raises UserError where a run exists under the same name with another spec."""
    directories = [RunDir.expected(runs_folder / study.name / run.name, run.spec) for run in study.runs]
    for run, directory in zip(study.runs, directories):
        if directory.spec_file.is_file():
            changed = difference(directory.spec, run.spec, ignore=FREE_TO_CHANGE)
            if changed:
                raise UserError(f"{study.source}: run {directory.path} exists with another spec:\n  "
                                + "\n  ".join(changed) + "\nGive the study another name, or remove that directory.")
    return directories


def freeze(study: Study, runs_folder: Path) -> list[RunDir]:
    """Create the study's directories with their frozen specs, or check those that are there, and bring them up to date.

    Raises UserError, before anything is written, as `refuse_changes` does.
    """
    directories = refuse_changes(study, runs_folder)
    origin, files = json_text(provenance()), {}
    for run, directory in zip(study.runs, directories):
        if not directory.spec_file.is_file():
            files |= {directory.path / "provenance.json": origin, directory.spec_file: dump(run.spec)}
        elif difference(directory.spec, run.spec):
            files[directory.spec_file] = dump(run.spec)
    write_texts(files)
    _record_study(study, runs_folder / study.name)
    return [RunDir(directory.path) for directory in directories]


def _record_study(study: Study, folder: Path) -> None:
    """Add this spec's runs to study.json; those of earlier sweeps under the name stay."""
    file = folder / "study.json"
    known = read_json(file)["runs"] if file.is_file() else {}
    runs = known | {run.name: {"differs": run.differs} for run in study.runs}
    if runs != known:
        write_json(file, {"name": study.name, "source": str(study.source), "runs": runs})
