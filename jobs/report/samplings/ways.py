"""Ways to sample: the samplings of runs that differ in seeds alone, as one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from statistics import fmean, stdev
from typing import Any

from jobs.report.diffusion_facts import CHAIN, chain_steps
from jobs.report.evaluation import t_quantile
from jobs.report.run import RunReport
from jobs.report.samplings.entries import Sampled, described, of_last_step
from jobs.report.verdicts.points import is_seed, label, swept_fields
from jobs.spec.sampling_names import in_words

FID = "fid"


@dataclass(frozen=True, eq=False)
class Way:
    """One way to sample, in the runs of one setting of training; the runs differ in seeds alone."""

    entries: Sequence[Sampled]

    @property
    def first(self) -> Sampled:
        return self.entries[0]

    @property
    def name(self) -> str:
        return self.first.name

    @property
    def described(self) -> str:
        return described(self.first)

    @property
    def family(self) -> str:
        """The line of a chart that it is a point of."""
        point = self.first.point
        others = {key: value for key, value in self.first.own.items() if key in CHAIN[2:]}
        return _family(point.sampler, point.timestep_respacing, others)

    @property
    def evaluations(self) -> int:
        return self.first.point.evaluations

    @property
    def is_full(self) -> bool:
        """Whether it goes along every step of the trained chain."""
        spec = self.first.run.spec
        return spec is not None and self.first.point.sampling_steps == chain_steps(spec)

    @property
    def seconds(self) -> float | None:
        """Wall time of one run's samples, the mean over runs where it is known."""
        known = [entry.seconds for entry in self.entries if entry.seconds is not None]
        return fmean(known) if known else None

    @property
    def process_seconds(self) -> float | None:
        """What one process took for one sample, the mean over runs; None where that was not recorded."""
        known = [entry.process_seconds for entry in self.entries if entry.process_seconds is not None]
        return fmean(known) if known else None

    def value(self, metric: str) -> float | None:
        """The mean over runs."""
        values = self.values(metric)
        return fmean(values) if values else None

    def values(self, metric: str) -> list[float]:
        return [entry.point.metrics[metric] for entry in self.entries if metric in entry.point.metrics]

    def error(self, metric: str) -> float | None:
        """Half of the 95 % interval of `value`: of the measurement, or over seeds if that is larger."""
        errors = [entry.point.error(metric) for entry in self.entries if metric in entry.point.metrics]
        return mean_error(self.values(metric), errors)


def _family(sampler: str, timestep_respacing: str, others: Mapping[str, Any]) -> str:
    """Return the name of a line of a chart: the sampler, how its steps are chosen, and other settings of the chain."""
    spacing = re.match("[a-z]*", timestep_respacing)
    word = spacing[0] if spacing else ""
    if "," in timestep_respacing:
        word = "sections"
    return ", ".join(filter(None, [" ".join(filter(None, [sampler, "even stride" if word == "ddim" else word])),
                                   in_words(others)]))


def mean_error(values: Sequence[float], errors: Sequence[float | None]) -> float | None:
    """Half of the 95 % interval of the mean of `values`, each with its own half; None where nothing is known."""
    known, n = [error for error in errors if error is not None], len(values)
    own = hypot(*known) / n if known and len(known) == n else None
    if n < 2:
        return own
    return max(t_quantile(n - 1) * stdev(values) / sqrt(n), own or 0.0)


def ways_of(entries: Sequence[Sampled]) -> dict[str, list[Way]]:
    """Return the ways to sample with the weights of the last step, by what the sweep varies in training, in words.

    The words are empty where the sweep varies nothing, or only seeds and settings of `sample`.
    """
    keys = [key for key in swept_fields(_runs(entries)) if not is_seed(key) and not key.startswith("sample.")]
    found: dict[str, dict[str, list[Sampled]]] = {}
    for entry in of_last_step(entries):
        training = _in_words({key: entry.run.differs[key] for key in keys if key in entry.run.differs}, entry.run.name)
        found.setdefault(training, {}).setdefault(entry.key, []).append(entry)
    return {training: list(map(Way, alike.values())) for training, alike in found.items()}


def _in_words(differs: Mapping[str, Any], name: str) -> str:
    """Return what differs, "lr=0.1, loss=vlb"; the name of the run where whole sections differ, which no words tell."""
    if any(isinstance(value, Mapping) for value in differs.values()):
        return name
    return ", ".join(f"{key.rpartition('.')[2]}={label(value)}" for key, value in differs.items())


def _runs(entries: Sequence[Sampled]) -> list[RunReport]:
    return list(dict.fromkeys(entry.run for entry in entries))
