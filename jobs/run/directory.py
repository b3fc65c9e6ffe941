"""The directory of a run: the paths in it, its frozen spec, and how far the run is."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jobs.errors import UserError
from jobs.run.records import EvaluationFile, ManifestFile
from jobs.run.study.study_file import read_study_file
from jobs.spec.kinds import KINDS, MODEL, draws_samples, kind_named
from jobs.spec.reading.frozen import dump, load_frozen
from jobs.spec.sampling_names import folder_name
from jobs.spec.samplings import Sampling, main_sampling, sampling_facts, samplings
from jobs.spec.sections import Spec
from jobs.spec.stages import STAGES
from jobs.storage.disk_errors import why_missing
from jobs.storage.files import read_bytes
from jobs.storage.locks import locked
from jobs.storage.typed import read_record

MOST_SPEC_BYTES = 1 << 20
SINCE: dict[str, Any] = {"differs": {}}
"""Facts of a sampling that an evaluation.json of an older version lacks, with what they were there."""


def weights_name(average: str | None, network: str = MODEL) -> str:
    """Return the file of the weights of `network`: its moving average of the rate `average`, None: the weights as trained."""
    if network == MODEL:
        return "model.safetensors" if average is None else f"ema-{average}.safetensors"
    return f"{network}.safetensors" if average is None else f"{network}-ema-{average}.safetensors"


def average_of(ema_rate: float | None) -> str | None:
    """Return the name of the average that `sample.ema_rate` selects."""
    return None if ema_rate is None else str(ema_rate)


def shares_of(run: Path) -> str | None:
    """Return the name of the run whose training the run in the folder `run` shares; None where it has its own.

    `checkpoints` is then a link, see jobs/run/study/sharing.py.
    """
    try:
        parts = Path(os.readlink(run / "checkpoints")).parts
    except OSError:
        return None
    shares = len(parts) == 3 and (parts[0], parts[2]) == ("..", "checkpoints") and not parts[1].startswith(".")
    return parts[1] if shares else None


class NoSuchStage(UserError):
    """A stage was asked for that runs of this kind do not have."""


@dataclass(frozen=True)
class RunDir:
    """The directory runs/STUDY/RUN."""

    path: Path
    known: Spec | None = field(default=None, compare=False, repr=False)
    """The spec, if the caller knows it: it will be frozen here, or equals the frozen spec."""
    will_share: str | None = field(default=None, compare=False, repr=False)
    """The run whose training this one will share, of a run that is not made yet."""

    @classmethod
    def expected(cls, path: Path, spec: Spec) -> "RunDir":
        """The run at `path`, which probably holds `spec`. Its spec.yaml is parsed only if it differs: large sweeps open fast."""
        file = path / "spec.yaml"
        return cls(path, spec if file.is_file() and read_bytes(file) == dump(spec).encode() else None)

    @property
    def spec_file(self) -> Path:
        return self.path / "spec.yaml"

    @property
    def shares(self) -> str | None:
        """The name of the run of this study whose training this run shares; None where it has its own."""
        return self.will_share or shares_of(self.path)

    @property
    def trainer(self) -> "RunDir":
        """The run that trains the weights of this one: itself, or the one whose training it shares."""
        name = self.shares
        return self if name is None else RunDir(self.path.parent / name)

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
        if sampling == main_sampling(self.spec):
            return self.samples
        return self.samples / folder_name(self.spec, sampling)

    @property
    def sampling_times(self) -> Path:
        """How long samples took; see jobs/sampling/times.py."""
        return self.path / "sampling.jsonl"

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
        """The frozen spec. Raises UserError if `path` is not a run's directory."""
        if self.known is not None:
            return self.known
        if not os.path.lexists(self.spec_file):
            raise UserError(why_missing(self.spec_file) or f"{self.path}: not a run's directory (it has no spec.yaml); "
                            "`iddpm run SPEC` makes runs/<study>/<run>")
        read_bytes(self.spec_file, MOST_SPEC_BYTES)  # raises where something else than a spec stands there
        try:
            return load_frozen(self.spec_file)
        except RecursionError as error:
            raise UserError(f"{self.spec_file}: damaged: nested too deeply") from error

    @property
    def differs(self) -> dict[str, Any]:
        """The swept settings of this run by dotted key, from study.json; empty if there is no sweep, or no readable file."""
        try:
            return read_study_file(self.path.parent).runs[self.path.name].differs
        except (FileNotFoundError, UserError, KeyError):
            return {}

    def checkpoint_folders(self) -> list[Path]:
        """The folders step-NNNNNNNN in the order of steps. Other folders, such as step-00001000.bak, do not count."""
        folders = [folder for folder in self.checkpoints.glob("step-*") if folder.name.removeprefix("step-").isdecimal()]
        return sorted(folders, key=lambda folder: int(folder.name.removeprefix("step-")))

    def checkpoint_folder(self, step: int) -> Path:
        """Return the folder of the checkpoint of `step`, which may be missing."""
        return self.checkpoints / f"step-{step:08}"

    def trained_steps(self) -> int:
        """Step of the newest checkpoint whose files have their recorded sizes, 0 if there is none. Reads no weights."""
        for folder in reversed(self.checkpoint_folders()):
            try:
                manifest = read_record(folder / "manifest.json", ManifestFile)
                if all((folder / name).stat().st_size == size for name, size in manifest.bytes.items()):
                    return manifest.step
            except (OSError, UserError, ValueError):  # ValueError: a name with the character 0
                continue
        return 0

    def has_stage(self, stage: str) -> bool:
        """Whether runs of this kind have the stage `stage`. Reads one line of spec.yaml where the spec is not known yet: parsing
        takes 10 ms a run. Where there is no such line, the run counts as one with all stages."""
        spec = self.known or vars(self).get("spec")
        kind = spec.kind if spec else self._kind_in_file()
        return stage in (kind_named(kind).stages if kind in KINDS else STAGES)

    def check_has(self, stage: str) -> None:
        """Raise NoSuchStage where runs of this kind do not have the stage `stage`."""
        if not self.has_stage(stage):
            kind = self.spec.kind
            raise NoSuchStage(f"{self.path}: a run of kind {kind} has no stage {stage}; its stages are "
                              f"{' and '.join(kind_named(kind).stages)}")

    def _kind_in_file(self) -> str | None:
        try:
            text = read_bytes(self.spec_file, MOST_SPEC_BYTES).decode("utf-8")
        except (OSError, UserError, ValueError):
            return None
        found = re.search(r"^kind: (\S+)$", text, re.M)  # jobs.spec.reading.frozen.dump wrote the text: one field a line
        return found[1] if found else None

    def is_done(self, stage: str) -> bool:
        """Whether the results of the stage "train", "sample" or "evaluate" exist. A stage that the kind of the run lacks leaves
        nothing to do, so it counts as done."""
        if stage == "train":
            steps = self.trained_steps()
            return steps > 0 and steps >= self.spec.train.iterations
        if stage == "sample":
            if all(path.exists() for path in (self.samples_h5, self.samples / "samples.npz", self.samples_png)):
                return all((self.samples_folder(sampling) / "samples.h5").exists() for sampling in samplings(self.spec))
            return not self.has_stage("sample")
        return self._evaluated_as_asked()

    def _evaluated_as_asked(self) -> bool:
        """Whether evaluation.json fits the spec of today: the `evaluate` section may change under a run."""
        try:
            found = read_record(self.evaluation, EvaluationFile)
        except (OSError, UserError):
            return False
        asked = [sampling_facts(self.spec, sampling) for sampling in samplings(self.spec)]
        there = [SINCE | {"evaluations": facts["evaluations"]} | {key: entry[key] for key in facts if key in entry}
                 for facts, entry in zip(asked, found.curve, strict=False)]
        settings = self.spec.evaluate
        unsaid = {key: value for key, value in settings.model_dump(mode="json").items()
                  if value == type(settings).model_fields[key].default}
        return (unsaid | (found.settings or {}) == settings.model_dump(mode="json") and asked == there
                and found.samples == (self.spec.sample.num_samples if draws_samples(self.spec) else None))

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Lock this run against other processes while the block lasts. The lock ends with the process, even if killed.

        Raises Busy, a UserError, if another process holds the lock, and UserError if `path` is not a run's directory.
        """
        _ = self.spec  # raises before a lock file is written into another kind of folder
        with locked(self.path / "lock", f"{self.path}: another process is at work on this run"):
            yield
