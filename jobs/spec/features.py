"""The built-in features that `evaluate.features` takes by name; any other value is the path of a TorchScript file.

A login node reads this table without torch.
"""

from collections.abc import Collection
from dataclasses import dataclass

from jobs.spec.metrics import METRICS


@dataclass(frozen=True)
class BuiltInFeatures:
    module: str
    """The module that opens the extractor: it offers `open_extractor(reference, cache, group)`."""
    gives: frozenset[str]
    """Among pool, spatial and probabilities."""
    needs_labels: bool = False
    """Whether the extractor is trained on the reference's images and labels."""


BUILT_IN: dict[str, BuiltInFeatures] = {
    "pixels": BuiltInFeatures("jobs.evaluation.pixels", frozenset({"pool"})),
    "classifier": BuiltInFeatures("jobs.evaluation.feature_classifier", frozenset({"pool", "spatial", "probabilities"}),
                                  needs_labels=True),
}
CHOICES = f"{', '.join(f'`{name}`' for name in BUILT_IN)} or a TorchScript file"


def metrics_beyond(features: str, metrics: Collection[str]) -> list[str]:
    """Those of `metrics` that the built-in `features` cannot give; empty for a TorchScript file, which must be opened first."""
    if features not in BUILT_IN:
        return []
    return [metric for metric in metrics if METRICS[metric].feature not in BUILT_IN[features].gives]
