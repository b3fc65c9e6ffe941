"""One run as its files tell it, for the report. What is missing stays away, what is broken becomes a remark."""

import json
import math
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jobs.run.directory import RunDir
from jobs.run.failures import Failure
from jobs.spec.metrics import HIGHER_IS_BETTER
from jobs.spec.sections import Spec
from jobs.spec.stages import STAGES
from jobs.storage.files import read_json

T = TypeVar("T")
SILENT_S = 300  # a stage whose last heartbeat is older runs no more, or hangs
BITS = "bits/dim"


@dataclass(frozen=True)
class Metric:
    name: str
    """As the headline has it, with the features it rests on: "fid (pixels)"."""
    value: float
    spread: str
    """Such as "± 0.09" or "20.1 to 20.9"; empty where it is not known."""
    spread_is: str
    """"standard error", "standard deviation" or "interval", or empty."""
    comparable: bool | None
    """With published figures; None: on the same data only."""
    basis: str
    """What it was computed from, in words."""
    error: float | None = None
    """Half of its 95 % interval, where that or a standard error is known."""

    @property
    def key(self) -> str:
        """"fid" of "fid (pixels)"."""
        return key_of(self.name)


@dataclass(frozen=True)
class Attempt:
    """One line of stages.jsonl: one start of a stage."""

    stage: str
    state: str
    started: float
    seconds: float
    world_size: int
    device: str


@dataclass(frozen=True)
class CurvePoint:
    """Samples of one checkpoint by one sampler, measured."""

    step: int
    sampler: str
    timestep_respacing: str
    sampling_steps: int
    metrics: dict[str, float]


@dataclass(eq=False)
class RunReport:
    run: RunDir
    differs: dict[str, Any]
    spec: Spec | None = None
    state: str = "not started"
    """done, failed, running, stopped, interrupted, unfinished or not started."""
    samples: int | None = None
    failure: Failure | None = None
    metrics: dict[str, Metric] = field(default_factory=dict)
    """By name."""
    curve: list[CurvePoint] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    provenance: dict = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.run.path.name

    def read(self, file: Path, reader: Callable[[], T], missing: T) -> T:
        """reader(), which reads `file`; `missing` where that is not there or, with a remark, where it is broken."""
        try:
            return reader() if file.exists() else missing
        except Exception as error:  # parsers of six formats meet anything here, and the page has to come all the same
            line = next(iter(str(error).splitlines()), "").replace(f"{file.parent}/", "")
            self.remarks.append(line if line.startswith(file.name) else f"{file.name}: {line or type(error).__name__}")
            return missing


def read_run(path: Path, differs: dict[str, Any]) -> RunReport:
    """Everything but TensorBoard and pictures."""
    run = RunDir(path)
    report = RunReport(run, differs)
    if not path.is_dir():
        report.remarks.append("its folder is missing")
        return report
    report.spec = report.read(run.spec_file, lambda: run.spec, None)
    report.provenance = report.read(path / "provenance.json", lambda: _mapping(read_json(path / "provenance.json")), {})
    report.failure = report.read(path / "failure.json", lambda: _failure(path / "failure.json"), None)
    report.attempts = report.read(path / "stages.jsonl", lambda: _attempts(report, path / "stages.jsonl"), [])
    evaluation = report.read(run.evaluation, lambda: _mapping(read_json(run.evaluation)), {})
    report.metrics = report.read(run.evaluation, lambda: metrics_of(evaluation), {})
    report.samples = report.read(run.evaluation, lambda: int(evaluation["samples"]) if "samples" in evaluation else None, None)
    report.curve = report.read(run.evaluation, lambda: [_point(entry) for entry in evaluation.get("curve") or []], [])
    progress = report.read(run.progress, lambda: _mapping(read_json(run.progress)), {})
    report.state = _state(bool(evaluation), report.failure, progress)
    return report


def _mapping(value: Any) -> dict:
    if not isinstance(value, dict):
        raise ValueError("not a mapping")
    return value


def _failure(file: Path) -> Failure:
    failure = Failure(**read_json(file))
    failure.next_step(file.parent)  # a kind that this version does not know shows here
    return failure


def _attempts(report: RunReport, file: Path) -> list[Attempt]:
    attempts = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            attempts.append(Attempt(str(entry["stage"]), str(entry["state"]), float(entry["started"]), float(entry["seconds"]),
                                    int(entry["world_size"]), str(entry["device"])))
        except (ValueError, KeyError, TypeError):  # a crash may cut the last line; the others still count
            report.remarks.append(f"{file.name}: line {number} cannot be read")
    return attempts


def _point(entry: dict) -> CurvePoint:
    metrics = {str(name): value for name, found in entry["metrics"].items() if (value := finite(found)) is not None}
    return CurvePoint(int(entry["step"]), str(entry["sampler"]), str(entry["timestep_respacing"]),
                      int(entry["sampling_steps"]), metrics)


def _state(evaluated: bool, failure: Failure | None, progress: dict) -> str:
    if evaluated:
        return "done"
    if failure:
        return "failed"
    state, heartbeat = progress.get("state"), finite(progress.get("heartbeat"))
    if state == "running":
        return "running" if heartbeat and time.time() - heartbeat < SILENT_S else "stopped"
    if state in ("interrupted", "failed"):
        return state
    return "unfinished" if progress.get("stage") in STAGES else "not started"


def finite(value: Any) -> float | None:
    """`value` as a float; None for what is no finite number."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None


def key_of(name: str) -> str:
    """"inception_score" of "inception score (pixels)"."""
    return name.partition(" (")[0].replace(" ", "_")


def lower_is_better(name: str) -> bool:
    return key_of(name) not in HIGHER_IS_BETTER


def metrics_of(evaluation: dict) -> dict[str, Metric]:
    """The metrics of an evaluation.json by name, of this version or of one that knew only fid and bits/dim."""
    details, features = dict(evaluation.get("metrics") or {}), dict(evaluation.get("features") or {})
    reference = evaluation.get("reference") or {}
    if "fid" in evaluation:
        old = details["fid"] = evaluation["fid"]
        features = {"name": old["features"], "note": old.get("note"), "comparable": old["features"] != "pixels"}
        reference = {"path": old.get("reference"), "images": old.get("reference_images")}
    samples, images, basis = evaluation.get("samples"), reference.get("images"), ""
    if isinstance(samples, int) and isinstance(images, int):
        basis = f"{samples:,} samples against {images:,} images of {reference.get('path', '?')}"
    names = {key_of(name): name for name in evaluation.get("headline") or {}}
    found: dict[str, Metric] = {}
    for key, detail in details.items():
        if (value := finite(detail.get("value"))) is not None:
            name = names.get(key, f"{key.replace('_', ' ')} ({features.get('name', '?')})")
            notes = "; ".join(filter(None, [basis, detail.get("note") or features.get("note")]))
            found[name] = Metric(name, value, *_spread(detail), features.get("comparable"), notes, _error(detail))
    bits = evaluation.get("bits_per_dim") or {}
    if (value := finite(bits.get("value"))) is not None:
        found[BITS] = Metric(BITS, value, *_spread(bits), None,
                             f"variational bound over all timesteps, {bits.get('examples')} examples of {bits.get('data')}",
                             _error(bits))
    for name, value in (evaluation.get("headline") or {}).items():
        if key_of(name) not in details and name not in found and finite(value) is not None:
            found[name] = Metric(name, finite(value), "", "", None, "")
    return found


def _spread(detail: dict) -> tuple[str, str]:
    """Metric.spread and spread_is."""
    for key in ("standard_error", "standard_deviation"):
        if (value := finite(detail.get(key))) is not None:
            return f"± {value:.2g}", key.replace("_", " ")
    interval = detail.get("interval")
    if interval and all(finite(end) is not None for end in interval):
        return f"{interval[0]:.4g} to {interval[1]:.4g}", "interval"
    return "", ""


def _error(detail: dict) -> float | None:
    """Metric.error. A lower end at 0 may have been cut off, so the larger half counts."""
    if (value := finite(detail.get("standard_error"))) is not None:
        return 1.96 * value
    ends = [finite(end) for end in detail.get("interval") or []]
    return max(abs(end - finite(detail["value"])) for end in ends) if ends and None not in ends else None


def read_terms(report: RunReport) -> dict[str, np.ndarray]:
    """The arrays of bits_per_dim.npz: total, prior [N], vb, mse, xstart_mse [T]; empty where it is not there."""
    file = report.run.path / "bits_per_dim.npz"

    def read() -> dict[str, np.ndarray]:
        with open(file, "rb") as opened, np.load(opened) as arrays:  # np.load alone leaves a broken file open
            terms = {key: np.asarray(arrays[key], dtype=np.float64) for key in ("total", "vb")}
        if any(values.ndim != 1 or not len(values) for values in terms.values()):
            raise zipfile.BadZipFile("arrays of other shapes than [N] and [T]")
        return terms
    return report.read(file, read, {})
