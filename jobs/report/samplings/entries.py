"""The samplings of all runs: each entry of evaluation.json's curve with all its settings, and the time that it takes."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import ValidationError

from jobs.cost.bench.file import bench_to_plan_by, read_bench
from jobs.cost.guided import evaluations_worth
from jobs.cost.rates import seconds_per_image
from jobs.errors import UserError
from jobs.report.cost import StageTime
from jobs.report.diffusion_facts import CHAIN
from jobs.report.evaluation import CurvePoint, finite
from jobs.report.run import RunReport
from jobs.spec.kinds import kind_of
from jobs.spec.sampling_names import CHAIN as FIRST
from jobs.spec.sampling_names import in_words
from jobs.spec.samplings import samplings, with_sampling

PUBLISHED_SAMPLES = 50_000  # behind the figures of papers
OF_ALL = ("at", "seed")
"""Keys of `sample` that count only where a sampling has values of its own: runs may differ in seeds."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """The samples of one run by one sampling."""

    run: RunReport
    point: CurvePoint
    settings: Mapping[str, Any]
    """Of `sample`, in full, as plain values."""
    own: Mapping[str, Any]
    """Those of `settings` in which this sampling differs from the main one, or its run from others of the sweep."""
    seconds: float | None
    """Wall time of drawing the run's samples: a share of the run's sampling stage, or planned; None where unknown."""
    worth: float
    """Evaluations for one sample, each by its FLOP in units of an evaluation of the run's own network."""
    measured: bool
    """Whether `seconds` come from the run's sampling stage; else from the newest bench-*.json here."""
    folder: Path | None = None
    """Where the samples are; None where the run's spec has no such sampling any more."""
    process_seconds: float | None = None
    """What one process took for one sample, without starting, loading and gathering; None where that was not recorded."""

    @property
    def context(self) -> str:
        """What samplings that are compared with each other have in common: all but the chain and how a sampler goes along it."""
        return _frozen({key: value for key, value in self.settings.items() if key not in CHAIN})

    @property
    def key(self) -> str:
        """Equal for equal ways to sample."""
        return _frozen(self.settings)

    @property
    def name(self) -> str:
        """By what differs, as the sampling's folder is named; "main" where nothing does."""
        return in_words(self.own) or "main"

    @property
    def guidance(self) -> Mapping[str, Any]:
        """Its kind, scale and other settings; empty without guidance, and where its scale is no number."""
        found = self.settings.get("guidance")
        return found if isinstance(found, Mapping) and finite(found.get("scale")) is not None else {}


def _frozen(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, default=str)


def sampled(runs: Iterable[RunReport], times: Mapping[str, Mapping[str, StageTime]]) -> list[Sampled]:
    """Return the samplings of all runs that are evaluated. `times`: by run and stage."""
    file = bench_to_plan_by(None)
    return [entry for run in runs for entry in _sampled(run, times.get(run.name, {}), file)]


def _sampled(run: RunReport, times: Mapping[str, StageTime], file: Path | None) -> Iterator[Sampled]:
    """Yield the samplings of one run. `file`: the rates to plan by, where a time was not measured."""
    settings = [_settings(run, point) for point in run.curve]
    worth = [point.evaluations * _share(run, own) for point, own in zip(run.curve, settings, strict=True)]
    shared = seconds_per_evaluation(run, sum(worth), times)
    planned = planned_seconds(run, file) if shared is None and file and run.curve else shared
    known = _folders(run)
    folders = [known.get((point.step, _frozen(own))) for point, own in zip(run.curve, settings, strict=True)]
    each = _alike(settings, [run.sample_seconds.get(str(folder.relative_to(run.run.path))) if folder else None
                             for folder in folders])
    # Times of some samplings beside shares of the stage for others would not compare.
    timed = [one * (run.samples or 0) / processes(run) for one in each if one is not None]
    for place, (point, own) in enumerate(zip(run.curve, settings, strict=True)):
        whole = len(timed) == len(each)
        seconds = timed[place] if whole else None if planned is None else planned * worth[place]
        yield Sampled(run, point, own, _own(run, point, own), seconds, worth[place], whole or shared is not None, folders[place],
                      each[place])


def _alike(settings: Sequence[Mapping[str, Any]], seconds: Sequence[float | None]) -> list[float | None]:
    """Return for each sampling the median over those that differ in the training step alone: one time may be disturbed."""
    known: dict[str, list[float]] = {}
    for own, one in zip(settings, seconds, strict=True):
        if one is not None:
            known.setdefault(_frozen(own), []).append(one)
    return [None if one is None else median(known[_frozen(own)]) for own, one in zip(settings, seconds, strict=True)]


def processes(run: RunReport) -> int:
    """Return how many processes drew the samples at last."""
    last = next((attempt for attempt in reversed(run.attempts) if attempt.stage == "sample"), None)
    return last.world_size if last else run.known_spec.resources.sample.world_size


def _folders(run: RunReport) -> dict[tuple[int, str], Path]:
    """Return the folders of the samplings that the run's spec has, by training step and settings."""
    if run.spec is None or not run.curve:
        return {}
    found = {}
    for sampling in samplings(run.spec):
        settings = with_sampling(run.spec, sampling).sample.model_dump(mode="json")
        counted = {key: settings[key] for key in settings if key not in OF_ALL or key in dict(sampling.changes)}
        found[sampling.step, _frozen(counted)] = run.run.samples_folder(sampling)
    return found


def _share(run: RunReport, settings: Mapping[str, Any]) -> float:
    """What one evaluation of a sampling with these `settings` costs on average, in evaluations of the run's own network.

    1 without a guide, and where the run's spec cannot have such a sampling: its guide is not known then.
    """
    if run.spec is None or not settings.get("guidance"):
        return 1.0
    try:
        sample = type(run.spec.sample).model_validate(settings)
    except ValidationError:
        return 1.0
    spec = run.spec.model_copy(update={"sample": sample})
    return evaluations_worth(spec, run.guides) / kind_of(spec).evaluations(spec)


def seconds_per_evaluation(run: RunReport, total: float, times: Mapping[str, StageTime]) -> float | None:
    """Wall time of one evaluation of the network for each of the run's samples; None where sampling was not measured.

    `total`: the evaluations of all samplings of the run, for one sample.
    """
    if run.state != "done" or "sample" not in times or not times["sample"].recorded or not total:
        return None
    return times["sample"].seconds / total


def planned_seconds(run: RunReport, file: Path) -> float | None:
    """Wall time of one evaluation by the rates in `file`, which `iddpm bench` wrote; None where `file` has no such rate."""
    if run.spec is None:
        return None
    sample = run.spec.sample
    try:
        image, _ = seconds_per_image(run.spec, read_bench(file), "sample", sample.precision, sample.batch_size)
    except UserError:
        return None
    return image.median * (run.samples or sample.num_samples) / run.spec.resources.sample.world_size


def _settings(run: RunReport, point: CurvePoint) -> dict[str, Any]:
    """Return Sampled.settings."""
    main = run.spec.sample.model_dump(mode="json") if run.spec else {}
    chain = {"sampler": point.sampler, "timestep_respacing": point.timestep_respacing} if point.sampler else {}
    return {key: value for key, value in (main | chain).items() if key not in OF_ALL} | point.differs


def _own(run: RunReport, point: CurvePoint, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return Sampled.own."""
    swept = dict.fromkeys(key.split(".")[1] for key in run.differs if key.startswith("sample."))
    return {key: settings[key] for key in swept if key in settings} | point.differs


def of_last_step(entries: Sequence[Sampled]) -> list[Sampled]:
    """Return those by the weights of the run's last step, which all further samplings have."""
    return [entry for entry in entries if entry.point.step == entry.run.curve[0].step]


def described(entry: Sampled) -> str:
    """Sampler, chain and what else differs, in words: "unipc, logsnr20" or "ancestral, full chain"."""
    point = entry.point
    respacing = f"{point.timestep_respacing} steps" if point.timestep_respacing.isdecimal() else point.timestep_respacing
    chain = [point.sampler, respacing or "full chain"] if point.sampler else []
    others = {key: value for key, value in entry.own.items() if key not in FIRST}
    return ", ".join(filter(None, [*chain, in_words(others)])) or entry.name
