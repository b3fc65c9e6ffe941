"""The metrics of samples against a reference, by the name that `evaluate.metrics` takes. A login node reads them without torch.

To add a metric, write one file in jobs/evaluation/metrics and one line here. The file offers
`compute(ours, theirs, check)`, described in jobs/evaluation/metrics/registry.py.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Part = Literal["pool", "spatial", "probabilities", "rows", "labels"]
"""Of what a feature extractor gives: moments of pooled or of spatial features, class probabilities, the pooled features of
single images (rows), for which the images themselves must be there, or class probabilities beside the labels of samples."""


def output_of(part: str) -> str:
    """Return the output of the feature extractor that `part` is made of: pool, spatial or probabilities."""
    return {"rows": "pool", "labels": "probabilities"}.get(part, part)


@dataclass(frozen=True)
class Number:
    """One number in evaluation.json."""

    label: str
    """The name in tables."""
    higher_is_better: bool = False
    basis: str = ""
    """What the number rests on, in words; the report adds it to what it knows of the samples."""


@dataclass(frozen=True)
class Metric:
    module: str
    """The module that computes the metric."""
    needs: Part
    numbers: Mapping[str, Number]
    """Reported numbers by key of `metrics` in evaluation.json."""
    least: int = 1
    """The smallest number of images, on either side, of which the metric can be computed."""
    compares: bool = True
    """False: the metric looks at the samples alone and needs nothing of the reference."""

    @property
    def feature(self) -> str:
        """The output of the feature extractor that the metric needs."""
        return output_of(self.needs)


METRICS: dict[str, Metric] = {
    "fid": Metric("jobs.evaluation.metrics.fid", "pool", {"fid": Number("fid")}, least=2),
    "sfid": Metric("jobs.evaluation.metrics.sfid", "spatial", {"sfid": Number("sfid")}, least=2),
    "inception_score": Metric("jobs.evaluation.metrics.inception_score", "probabilities",
                              {"inception_score": Number("inception score", higher_is_better=True)}, compares=False),
    "precision_recall": Metric("jobs.evaluation.metrics.precision_recall", "rows",
                               {"precision": Number("precision", higher_is_better=True),
                                "recall": Number("recall", higher_is_better=True)}, least=4),
    "kid": Metric("jobs.evaluation.metrics.kid", "rows", {"kid": Number("kid")}, least=2),
    "label_accuracy": Metric("jobs.evaluation.metrics.label_accuracy", "labels",
                             {"label_accuracy": Number("label seen", higher_is_better=True)}, compares=False),
}
"""Tables and evaluation.json list metrics in this order."""

RECONSTRUCTION_FID = "reconstruction_fid"
"""Beside the fid of samples, where a kind's network encodes and decodes images: the fid of images that went through both."""
NUMBERS: dict[str, Number] = {**{key: number for metric in METRICS.values() for key, number in metric.numbers.items()},
                              RECONSTRUCTION_FID: Number("reconstruction fid")}
HIGHER_IS_BETTER: frozenset[str] = frozenset(key for key, number in NUMBERS.items() if number.higher_is_better)


def labelled(metrics: Collection[str]) -> list[str]:
    """Return those of `metrics` that need the labels of samples."""
    return [metric for metric in metrics if METRICS[metric].needs == "labels"]
