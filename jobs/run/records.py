"""What the files of a study and of a run hold, for everyone who reads them."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator

from jobs.spec.stages import STAGES
from jobs.storage.typed import Count, Seconds, Time


def _stage(name: str) -> str:
    if name not in STAGES:
        raise ValueError(f"{name!r} is not a stage")
    return name


Stage = Annotated[str, AfterValidator(_stage)]


@dataclass(frozen=True)
class StudyEntry:
    differs: dict[str, Any] = field(default_factory=dict)
    """The swept settings of the run, by dotted key."""
    left: bool = False
    """Whether the newest sweep has no such point."""


@dataclass(frozen=True)
class StudyFile:
    """study.json."""

    runs: dict[str, StudyEntry]
    """By name, in the order of the spec."""
    name: str = ""
    source: str = ""
    """Path of the spec."""


@dataclass(frozen=True)
class ProgressFile:
    """progress.json: how far the stage is that ran last."""

    stage: Stage
    state: str
    """running, done, interrupted or failed."""
    done: Count | None = None
    total: Count | None = None
    """Not known while the stage prepares."""
    heartbeat: Time = 0
    advanced: Time | None = None
    """When the last unit was done."""
    unit: str = ""
    doing: str = ""
    """What the stage does while it finishes no unit."""
    rate: Seconds | None = None
    """Units per second."""
    left_s: Seconds | None = -1.0
    """Seconds left; None while that is not known, negative where the file does not say."""
    loss: float | None = None
    machine: str = ""
    """See `jobs.storage.machine.this_machine`."""
    pid: Count = 0
    followed: bool = False
    """Whether the launcher starts the next stage at once."""
    attempt: str = ""
    """Which start of the stage wrote the file: each has another name."""


@dataclass(frozen=True)
class Requeue:
    """The last time that a job asked for its requeue."""

    job: str | None = None
    attempt: str | None = None
    left: Count | None = None
    """Steps that were left, at the least of all attempts; None if no attempt came to its first step."""
    fruitless: Count = 0
    """Attempts without progress since."""


@dataclass(frozen=True)
class RequeuesFile:
    """requeues.json, by stage."""

    train: Requeue | None = None
    sample: Requeue | None = None
    evaluate: Requeue | None = None


@dataclass(frozen=True)
class EvaluationFile:
    """The parts of evaluation.json that every reader knows."""

    settings: dict[str, Any] | None = None
    """The spec's section `evaluate`."""
    samples: Count | None = None
    headline: dict[str, float | None] = field(default_factory=dict)
    """The numbers for tables, by name."""
    skipped_steps: Count | None = None
    """Training steps that were skipped, because their gradient was not finite."""
    weights_sha256: str | None = None
    features: dict[str, Any] | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)
    """An entry for each sampling, the main one first: `step` (of training), the kind's facts such as `sampler`,
    `timestep_respacing` and `sampling_steps`; `evaluations` of the network for one sample, guidance counted; `differs`, the
    settings that are not the main sampling's ({} for those of sample.at); `samples`, and `metrics` and `intervals` by name."""


@dataclass(frozen=True)
class HeldFile:
    """held.json: why the rest of a study is on hold."""

    time: Time
    kind: str
    message: str
    runs: list[str]


@dataclass(frozen=True)
class WaitingFile:
    """waiting.json: the runs that wait for a later wave of the study, where a queue has little room."""

    time: Time
    runs: list[str]


@dataclass(frozen=True)
class BadNode:
    """A node on which a stage failed of hardware."""

    time: Time
    reason: str


@dataclass(frozen=True)
class NodesFile:
    """nodes.json: the nodes that a study's next jobs avoid, by name."""

    nodes: dict[str, BadNode]


@dataclass(frozen=True)
class PlanFile:
    """plan.json: the planned pace of each run and stage."""

    seconds_per_step: dict[str, dict[str, Seconds]]


@dataclass(frozen=True)
class ManifestFile:
    """manifest.json of a checkpoint."""

    step: Count
    bytes: dict[str, Count]
    """Size of each file, by name."""


@dataclass(frozen=True)
class KeptForFile:
    """A file in kept_for/: the checkpoints that a run keeps because they guide another one."""

    steps: list[Count]
    run: str = ""
    """The folder of that other run."""


@dataclass(frozen=True)
class DataFile:
    """data.json: the data that a run was trained on."""

    images: Count
    sha256: str


@dataclass(frozen=True)
class ProvenanceFile:
    """provenance.json: where a run comes from."""

    commit: str | None = None
    dirty_patch: str | None = None
    python: str | None = None
    system: str | None = None
    packages: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    imported: dict[str, Any] | None = None
    """Of a run of imported weights: their file, step and what said it; see jobs/kinds/weight_files.py."""
    init_from: dict[str, Any] = field(default_factory=dict)
    """File and sha256 of the weights that training started from; empty for random ones."""
