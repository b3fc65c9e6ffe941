"""What a run's evaluation.json says: its metrics with their errors, and the points of its curve."""

import math
from dataclasses import dataclass
from typing import Any

from jobs.quantities import figure
from jobs.report.diffusion_facts import evaluations_of
from jobs.spec.kinds import number_labels
from jobs.spec.metrics import HIGHER_IS_BETTER, NUMBERS, RECONSTRUCTION_FID
from jobs.spec.sampling_names import CHAIN

Z = 1.96  # 95 % of a normal distribution lie within so many standard deviations


# The 97.5 % quantiles of Student's distribution with 1, 2, ... degrees of freedom.
_FEW = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def t_quantile(freedom: float) -> float:
    """Return the 97.5 % quantile of Student's distribution with `freedom` degrees of freedom, at least 1.

    From a table up to 10 (parts of a degree do not count), then Abramowitz & Stegun 26.7.5, from the normal distribution's.
    """
    whole = int(freedom + 1e-6)  # 3.9999 is a 4 that was rounded
    if whole <= len(_FEW):
        return _FEW[max(whole, 1) - 1]
    return Z + (Z ** 3 + Z) / (4 * freedom) + (5 * Z ** 5 + 16 * Z ** 3 + 3 * Z) / (96 * freedom ** 2)


@dataclass(frozen=True)
class Metric:
    name: str
    """In tables, with the features that the metric rests on: "fid (pixels)"."""
    key: str
    """In evaluation.json: "fid"."""
    value: float
    spread: str
    """Such as "± 0.09" or "20.1 to 20.9"; empty where the spread is not known."""
    spread_is: str
    """"standard error", "standard deviation" or "interval", or empty."""
    comparable: bool | None
    """With published figures; None: with numbers of the same data only."""
    basis: str
    """What the metric was computed from, in words."""
    error: float | None = None
    """Half of the 95 % interval of the value, where an interval or a standard error is known."""
    quarters: tuple[float, ...] = ()
    """The value in each quarter of the timesteps, from the least noise to the most, where that is known."""

    @property
    def text(self) -> str:
        """The value for people."""
        return figure(self.value)

    @property
    def higher_is_better(self) -> bool:
        return self.key in HIGHER_IS_BETTER or self.key in number_labels() and number_labels()[self.key].higher_is_better


@dataclass(frozen=True)
class CurvePoint:
    """Samples of one checkpoint by one sampler, measured."""

    step: int
    sampler: str
    """Empty for a kind of model that has no samplers to choose from, as is timestep_respacing."""
    timestep_respacing: str
    sampling_steps: int
    metrics: dict[str, float]
    """By key: "fid"."""
    evaluations: int
    """Of the network, for one sample; those of guidance count."""
    differs: dict[str, Any]
    """The settings of `sample` that are not the main sampling's."""
    intervals: dict[str, tuple[float, float]]
    """95 % intervals of those metrics that have one, by key."""

    def samples_like(self, other: "CurvePoint") -> bool:
        """Whether the two points differ in nothing but the checkpoint."""
        return self.differs == other.differs

    def error(self, metric: str) -> float | None:
        """Half of the 95 % interval of `metric`; the larger half, since an interval may have been cut off at 0."""
        value, ends = self.metrics.get(metric), self.intervals.get(metric)
        return None if value is None or ends is None else max(abs(end - value) for end in ends)


def finite(value: Any) -> float | None:
    """Return `value` as a float; None for whatever is not a finite number."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None


def metrics_of(evaluation: dict) -> dict[str, Metric]:
    """Return the metrics of an evaluation.json by name. Metrics whose value is not a finite number are left out."""
    found = [*_of_samples(evaluation), *_of_kind(evaluation)]
    return {metric.name: metric for metric in found}


def unusable_of(evaluation: dict) -> list[str]:
    """Return the numbers of an evaluation.json that rank nothing, in words: "fid is NaN"."""
    entries = dict(evaluation.get("metrics") or {}) | {key: evaluation.get(key) or {} for key in number_labels()}
    return [f"{key} is {detail.get('value')}" for key, detail in entries.items()
            if "value" in detail and finite(detail["value"]) is None]


def curve_of(evaluation: dict) -> list[CurvePoint]:
    """Return the samplings of an evaluation.json, the main one first."""
    entries = evaluation.get("curve") or []
    return [_point(entry, entries[0], evaluation) for entry in entries]


def _of_samples(evaluation: dict) -> list[Metric]:
    features, basis, found = dict(evaluation.get("features") or {}), _comparison(evaluation), []
    for key, detail in dict(evaluation.get("metrics") or {}).items():
        if (value := finite(detail.get("value"))) is not None:
            label = NUMBERS[key].label if key in NUMBERS else key
            notes = "; ".join(filter(None, [None if key == RECONSTRUCTION_FID else basis,
                                            detail.get("note") or features.get("note")]))
            found.append(Metric(f"{label} ({features.get('name', '?')})", key, value, *_spread(detail),
                                features.get("comparable"), notes, _error(value, detail)))
    return found


def _comparison(evaluation: dict) -> str:
    """How many samples were compared with what, in words."""
    samples, reference = evaluation.get("samples"), evaluation.get("reference") or {}
    images = reference.get("images")
    if not isinstance(samples, int) or not isinstance(images, int):
        return ""
    return f"{samples:,} samples against {images:,} images of {reference.get('path', '?')}"


def _of_kind(evaluation: dict) -> list[Metric]:
    found = []
    for key, number in number_labels().items():
        detail = evaluation.get(key) or {}
        if (value := finite(detail.get("value"))) is not None:
            examples = f"{detail['examples']} examples of {detail.get('data')}" if "examples" in detail else ""
            basis = ", ".join(filter(None, [number.basis, examples]))
            found.append(Metric(number.label, key, value, *_spread(detail), None, basis, _error(value, detail),
                                _quarters(detail)))
    return found


def _quarters(detail: dict) -> tuple[float, ...]:
    """Return Metric.quarters; none where one of them is not a finite number."""
    given = detail.get("quarters") or []
    found = tuple(value for each in given if (value := finite(each)) is not None)
    return found if len(found) == len(given) else ()


def _spread(detail: dict) -> tuple[str, str]:
    """Return Metric.spread and Metric.spread_is."""
    for key in ("standard_error", "standard_deviation"):
        if (value := finite(detail.get(key))) is not None:
            return f"± {value:.2g}", key.replace("_", " ")
    if ends := _interval(detail):
        return f"{ends[0]:.4g} to {ends[1]:.4g}", "interval"
    return "", ""


def _error(value: float, detail: dict) -> float | None:
    """Return Metric.error. The lower end of an interval may have been cut off at 0, so the larger half counts."""
    if (standard_error := finite(detail.get("standard_error"))) is not None:
        return Z * standard_error
    ends = _interval(detail)
    return max(abs(end - value) for end in ends) if ends else None


def _interval(detail: dict) -> list[float]:
    """Return the two ends, or nothing where they are not known."""
    ends = [end for given in detail.get("interval") or [] if (end := finite(given)) is not None]
    return ends if len(ends) == 2 else []


def _point(entry: dict, main: dict, evaluation: dict) -> CurvePoint:
    """Return an entry of the curve; one of an earlier version says less, and has an interval only for the main sampling."""
    metrics = {str(key): value for key, found in entry["metrics"].items() if (value := finite(found)) is not None}
    sampler, respacing, steps = (str(entry.get("sampler", "")), str(entry.get("timestep_respacing", "")),
                                 int(entry.get("sampling_steps", 1)))
    differs = entry.get("differs", {key: entry[key] for key in CHAIN if key in entry and entry[key] != main.get(key)})
    given = evaluation.get("metrics") or {} if entry is main else {}
    details = {key: {"interval": ends} for key, ends in (entry.get("intervals") or {}).items()}
    intervals = {str(key): (ends[0], ends[1]) for key, detail in {**given, **details}.items() if (ends := _interval(detail))}
    return CurvePoint(int(entry["step"]), sampler, respacing, steps, metrics,
                      int(entry.get("evaluations") or evaluations_of(sampler, steps)), dict(differs), intervals)
