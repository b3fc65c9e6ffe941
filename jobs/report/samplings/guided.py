"""Samplings along the scale of guidance: what the charts over guidance draw."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.report.diffusion_facts import UNGUIDED
from jobs.report.samplings.ways import Way
from jobs.spec.sampling_names import in_words

TRADED = ("precision", "recall", "label_accuracy")
"""Metrics in 0 .. 1 that guidance trades for each other; they share a panel."""


@dataclass(frozen=True, eq=False)
class Guided:
    """Ways to sample that differ in the scale of one kind of guidance alone."""

    training: str
    kind: str
    ways: Sequence[Way]
    """By scale, ascending."""
    unguided: Way | None
    """The way without guidance, or by a scale that gives none, whose other settings are those of the line."""

    @property
    def name(self) -> str:
        """What the ways have in common besides the kind, in words; empty for the main sampling's own settings."""
        first = self.ways[0].first
        others = {key: value for key, value in first.own.items() if key != "guidance"}
        details = {key: value for key, value in first.guidance.items() if key not in ("kind", "scale")}
        return ", ".join(filter(None, [self.training, in_words(others), in_words(_said(details))]))

    def points(self, metric: str) -> tuple[list[float], list[float], list[float]]:
        """Scales, values and halves of intervals (0 where unknown) of `metric`, the unguided point among them."""
        found = [(float(way.first.guidance["scale"]), way) for way in self.ways]
        if self.unguided and (at := UNGUIDED.get(self.kind)) is not None and all(scale != at for scale, _ in found):
            found = sorted([*found, (at, self.unguided)], key=lambda pair: pair[0])
        measured = [(scale, value, way.error(metric) or 0.0) for scale, way in found
                    if (value := way.value(metric)) is not None]
        return [scale for scale, _, _ in measured], [value for _, value, _ in measured], [error for _, _, error in measured]


def _said(details: Mapping) -> dict:
    return {key: value for key, value in details.items() if value is not None}


def guided(ways: Mapping[str, Sequence[Way]]) -> list[Guided]:
    """Return the lines over guidance scale, those of one kind together."""
    found: dict[tuple[str, str, str], list[Way]] = {}
    unguided: dict[tuple[str, str], Way] = {}
    for training, members in ways.items():
        for way in members:
            guidance = dict(way.first.guidance)
            others = json.dumps({key: value for key, value in way.first.settings.items() if key != "guidance"}, sort_keys=True,
                                default=str)
            if not way.first.settings.get("guidance"):
                unguided.setdefault((training, others), way)
            if guidance.pop("scale", None) is None:
                continue
            found.setdefault((training, others, json.dumps(guidance, sort_keys=True, default=str)), []).append(way)
    lines = []
    for (training, others, _), alike in found.items():
        kind = str(alike[0].first.guidance.get("kind", "guidance"))
        without = unguided.get((training, others)) or next(
            (way for way in alike if way.first.guidance["scale"] == UNGUIDED.get(kind)), None)
        lines.append(Guided(training, kind, sorted(alike, key=lambda way: way.first.guidance["scale"]), without))
    return sorted(lines, key=lambda line: line.kind)
