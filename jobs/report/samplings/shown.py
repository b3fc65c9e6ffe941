"""Which samplings of a run have a picture."""

from collections.abc import Mapping, Sequence

import numpy as np

from jobs.report.run import RunReport
from jobs.report.samplings.comparisons import Comparison
from jobs.report.samplings.entries import Sampled
from jobs.report.samplings.ways import FID, Way

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
