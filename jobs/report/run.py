"""Read one run's files for the report. A missing file is left out, and a broken one becomes a remark."""

import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from PIL import Image
from pydantic import Field

from jobs.cost.count import Cost, run_cost
from jobs.cost.guided import named_specs
from jobs.data.pictures import ungrid
from jobs.errors import UserError
from jobs.kinds.diffusion.kind import BITS_KEY
from jobs.report.evaluation import CurvePoint, Metric, curve_of, finite, metrics_of, unusable_of
from jobs.run.directory import RunDir
from jobs.run.failures import Failure
from jobs.run.records import ProgressFile, ProvenanceFile, Stage
from jobs.spec.sections import Spec
from jobs.storage.files import MOST_BYTES, check_file, read_bytes, read_json
from jobs.storage.typed import Count, Seconds, Time, as_record, read_record

T = TypeVar("T")
SILENT_S = 300  # a stage whose last heartbeat is older has died, or hangs


@dataclass(frozen=True)
class Attempt:
    """One line of stages.jsonl: one start of a stage."""

    stage: Stage
    state: str
    started: Time
    seconds: Annotated[Seconds, Field(ge=0)]
    world_size: Annotated[Count, Field(ge=1, lt=10 ** 7)]
    device: str


@dataclass(frozen=True)
class SampledChunks:
    """One line of sampling.jsonl: what chunks of one sampling took in one attempt."""

    folder: str
    samples: Annotated[Count, Field(ge=1)]
    process_seconds: Annotated[Seconds, Field(ge=0)]
    """Of all processes together."""


@dataclass(eq=False)
class RunReport:
    run: RunDir
    differs: dict[str, Any]
    """Swept fields, dotted, with their values in this run."""
    spec: Spec | None = None
    state: str = "not started"
    """done, failed, running, stopped, interrupted, unfinished or not started."""
    samples: int | None = None
    failure: Failure | None = None
    metrics: dict[str, Metric] = field(default_factory=dict)
    """By name."""
    curve: list[CurvePoint] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    sample_seconds: dict[str, float] = field(default_factory=dict)
    """What one process takes for one sample, by the folder of the sampling in the run's folder, where that was measured."""
    provenance: ProvenanceFile | None = None
    remarks: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Why numbers of the run count in no comparison: "fid is nan"."""
    left: bool = False
    """Whether the newest sweep has no such run: verdicts leave the run out."""

    @property
    def name(self) -> str:
        return self.run.path.name

    @property
    def known_spec(self) -> Spec:
        """The spec, for callers that have chosen a run that has one."""
        assert self.spec is not None
        return self.spec

    @cached_property
    def cost(self) -> Cost | None:
        """What the run costs, counted from its spec and those of the runs that guide it."""
        return run_cost(self.spec, self.guides) if self.spec else None

    @cached_property
    def guides(self) -> dict[str, Spec]:
        """The specs of the runs of this study that the run names, by name."""
        return named_specs(self.run, self.spec) if self.spec else {}

    def read(self, file: Path, reader: Callable[[], T], missing: T) -> T:
        """Return reader(), which reads `file`. Return `missing` where the file is not there, or is broken (with a remark)."""
        try:
            if not os.path.lexists(file):
                return missing
            if not file.is_dir():
                check_file(file)
            return reader()
        except Exception as error:  # six parsers raise anything for broken files, and the other files still make a page
            line = next(iter(str(error).splitlines()), "").replace(f"{file.parent}/", "")
            self.remarks.append(line if line.startswith(file.name) else f"{file.name}: {line or type(error).__name__}")
            return missing


def read_run(path: Path, differs: dict[str, Any], left: bool = False) -> RunReport:
    """Read all files of the run in `path` but TensorBoard's and the samples. `differs` and `left`: its entry in study.json."""
    run = RunDir(path)
    report = RunReport(run, differs, left=left)
    if left:
        report.remarks.append("left the sweep, so it counts in no comparison")
    if shares := run.shares:
        report.remarks.append(f"samples from the training of {shares}, which it shares")
    if not os.path.isdir(path):
        report.remarks.append("its folder is missing")
        return report
    report.spec = report.read(run.spec_file, lambda: run.spec, None)
    origin, failure = path / "provenance.json", path / "failure.json"
    report.provenance = report.read(origin, lambda: read_record(origin, ProvenanceFile), None)
    report.failure = report.read(failure, lambda: read_record(failure, Failure), None)
    report.attempts = report.read(path / "stages.jsonl", lambda: _attempts(report, path / "stages.jsonl"), [])
    report.sample_seconds = report.read(run.sampling_times, lambda: _sample_seconds(report, run.sampling_times), {})
    evaluation: dict = report.read(run.evaluation, lambda: _mapping(read_json(run.evaluation)), {})
    report.metrics = report.read(run.evaluation, lambda: metrics_of(evaluation), {})
    if evaluation.get("samples") is not None:  # not every kind draws samples
        report.samples = report.read(run.evaluation, lambda: int(evaluation["samples"]), None)
    report.curve = report.read(run.evaluation, lambda: curve_of(evaluation), [])
    _leave_out(report, evaluation)
    progress = report.read(run.progress, lambda: read_record(run.progress, ProgressFile), None)
    report.state = _state(bool(evaluation), report.failure, progress)
    return report


def _leave_out(report: RunReport, evaluation: dict) -> None:
    """Leave numbers out that rank nothing, and say so; say how many training steps were skipped."""
    report.left_out = report.read(report.run.evaluation, lambda: unusable_of(evaluation), [])
    if report.metrics and report.spec and _without_content(report.run.samples_png, report.spec.data.image_size):
        report.left_out, report.metrics, report.curve = ["its samples have the same value in every pixel"], {}, []
    report.remarks += [f"left out of comparisons: {reason}" for reason in report.left_out]
    if report.provenance and (imported := report.provenance.imported):
        step = imported.get("step")
        known = f"training step {step} by {imported.get('step_from')}" if step is not None else "their training step is not known"
        report.remarks.append(f"weights imported from {imported.get('file')}; {known}")
    if skipped := finite(evaluation.get("skipped_steps")):
        report.remarks.append(f"{skipped:,.0f} training steps were skipped, because their gradient was not finite")


def _without_content(file: Path, image_size: int) -> bool:
    """Whether all samples of the picture samples.png are of one value, as NaN was saved by earlier versions."""
    try:
        check_file(file)
        with Image.open(file) as picture:
            pixels = np.asarray(picture)
        images = ungrid(pixels.reshape(*pixels.shape[:2], -1), image_size)
    except Exception:  # the picture may be anything at all; the section on pictures says what is wrong with samples
        return False
    return bool((images == images[:, :1, :1, :1]).all())


def _mapping(value: Any) -> dict:
    if not isinstance(value, dict):
        raise ValueError("not a mapping")
    return value


def _attempts(report: RunReport, file: Path) -> list[Attempt]:
    return list(_lines(report, file, Attempt))


def _sample_seconds(report: RunReport, file: Path) -> dict[str, float]:
    """Return RunReport.sample_seconds: all attempts together."""
    chunks: dict[str, list[SampledChunks]] = {}
    for line in _lines(report, file, SampledChunks):
        chunks.setdefault(line.folder, []).append(line)
    return {folder: sum(line.process_seconds for line in lines) / sum(line.samples for line in lines)
            for folder, lines in chunks.items()}


def _lines(report: RunReport, file: Path, record: type[T]) -> Iterator[T]:
    """Read a file of JSON records, a line each, as dataclasses."""
    for number, line in enumerate(read_bytes(file).decode("utf-8", errors="replace").splitlines(), 1):
        try:
            yield as_record(json.loads(line), record, file.name)
        except (ValueError, RecursionError, UserError):  # a crash may cut the last line short; the others count
            report.remarks.append(f"{file.name}: line {number} cannot be read")


def _state(evaluated: bool, failure: Failure | None, progress: ProgressFile | None) -> str:
    if evaluated:
        return "done"
    if failure:
        return "failed"
    if progress is None:
        return "not started"
    if progress.state == "running":
        return "running" if time.time() - progress.heartbeat < SILENT_S else "stopped"
    return progress.state if progress.state in ("interrupted", "failed") else "unfinished"


def read_terms(report: RunReport) -> dict[str, np.ndarray]:
    """Return two arrays of bits_per_dim.npz: "total" [N] by example, and "vb" [T] by timestep, in bits/dim.

    Empty where the file is missing or, with a remark, where it is broken.
    """
    file = report.run.path / f"{BITS_KEY}.npz"

    def read() -> dict[str, np.ndarray]:
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
                raise zipfile.BadZipFile(f"would unpack to over {MOST_BYTES:,} bytes")
        with open(file, "rb") as opened, np.load(opened) as arrays:  # np.load alone leaves a broken file open
            terms = {key: np.asarray(arrays[key], dtype=np.float64) for key in ("total", "vb")}
        if any(values.ndim != 1 or not len(values) for values in terms.values()):
            raise zipfile.BadZipFile("arrays of other shapes than [N] and [T]")
        return terms
    return report.read(file, read, {})
