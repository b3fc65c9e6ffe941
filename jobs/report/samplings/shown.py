"""Which samplings of a run have a picture, and where their samples are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jobs.report.run import RunReport
from jobs.report.samplings.comparisons import Comparison
from jobs.report.samplings.entries import OF_ALL, Sampled
from jobs.report.samplings.ways import FID, Way
from jobs.spec.samplings import samplings, with_sampling

PICTURES = 12


def to_show(run: RunReport, ways: Mapping[str, Sequence[Way]], found: Sequence[Comparison]) -> list[Sampled]:
    """Return at most PICTURES samplings of `run`, in the order of the list, the main one first.

    Where there are more: the main one, the full chain, the cheapest as good, the dearest that is rejected, and others evenly
    spaced.
    """
    own = {way: entry for members in ways.values() for way in members for entry in way.entries if entry.run is run}
    if len(own) <= PICTURES:
        return list(own.values())
    wanted = [next(iter(own)), *(way for comparison in found for way in _telling(comparison))]
    spaced = [list(own)[index] for index in np.linspace(0, len(own) - 1, PICTURES).round().astype(int)]
    chosen = list(dict.fromkeys(way for way in [*wanted[:PICTURES // 2], *spaced] if way in own))[:PICTURES]
    return [entry for way, entry in own.items() if way in chosen]


def _telling(comparison: Comparison) -> list[Way]:
    """The full chain, the cheapest way that passes, and the dearest that does not."""
    rejected = [way for way in comparison.shorter if comparison.passes(way) is False]
    found = [comparison.full, comparison.cheapest, max(rejected, key=lambda way: way.evaluations, default=None)]
    return [way for way in found if way is not None and way.value(FID) is not None]


def folder_of(entry: Sampled) -> Path | None:
    """Return the folder with the samples of `entry`; None where the run's spec has no such sampling any more."""
    if entry.run.spec is None:
        return None
    spec = entry.run.spec
    for sampling in samplings(spec):
        settings = with_sampling(spec, sampling).sample.model_dump(mode="json")
        counted = {key: settings[key] for key in settings if key not in OF_ALL or key in dict(sampling.changes)}
        if sampling.step == entry.point.step and entry.settings == counted:
            return entry.run.run.samples_folder(sampling)
    return None
