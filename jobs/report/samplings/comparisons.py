"""Which samplings are compared with the full chain, and which of them are as good.

A sampling passes where its FID is within its interval of the full chain's: FID - half of the 95 % interval <= FID of the full
chain, and the interval is narrow enough to tell. Both are of equally many samples, so the upward bias of few samples is about
the same on both sides and cancels; noise does not. Over several seeds the mean of FID's differences counts, of each run with its
own full chain, with the larger of Student's interval over seeds and the samplings' own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from jobs.report.diffusion_facts import CHAIN
from jobs.report.run import RunReport
from jobs.report.samplings.entries import Sampled
from jobs.report.samplings.ways import FID, Way, mean_error
from jobs.report.verdicts.points import is_seed, label
from jobs.spec.sampling_names import in_words


@dataclass(frozen=True, eq=False)
class Comparison:
    """Ways to sample that should give one distribution: by one training, with equal guidance and averages."""

    training: str
    """What the sweep varies in training, in words; empty where that is nothing."""
    ways: Sequence[Way]
    """In the order of the list of samplings: the main one first."""

    @cached_property
    def full(self) -> Way | None:
        """The full chain: of the main sampling if that is one, else of ancestral sampling, else of any sampler."""
        full = [way for way in self.ways if way.is_full and way.value(FID) is not None]
        return min(full, key=lambda way: (way.name != "main", way.first.point.sampler != "ancestral"), default=None)

    @property
    def shared(self) -> str:
        """What the ways have in common that the main sampling has not, in words; empty for the main sampling's own."""
        owns = [{key: value for key, value in way.first.own.items() if key not in CHAIN} for way in self.ways]
        return in_words(owns[0]) if owns else ""

    @property
    def title(self) -> str:
        return ", ".join(filter(None, [self.training, self.shared]))

    @cached_property
    def shorter(self) -> list[Way]:
        """Ways with fewer evaluations than the full chain, fewest first."""
        full = self.full
        return [] if full is None else sorted((way for way in self.ways if way.evaluations < full.evaluations
                                               and way.value(FID) is not None), key=lambda way: way.evaluations)

    @cached_property
    def cheapest(self) -> Way | None:
        """The way with the fewest evaluations that passes; of several, that with the lowest FID."""
        passing = [way for way in self.shorter if self.passes(way)]
        return min(passing, key=lambda way: (way.evaluations, way.value(FID)), default=None)

    def gap(self, way: Way) -> tuple[float, float | None] | None:
        """FID of `way` minus that of the full chain, and half of the interval that the difference may have."""
        if self.full is None:
            return None
        pairs = _pairs(way, self.full)
        if not pairs:
            return None
        gaps = [one.point.metrics[FID] - full.point.metrics[FID] for one, full in pairs]
        return fmean(gaps), mean_error(gaps, [one.point.error(FID) for one, _ in pairs])

    def passes(self, way: Way) -> bool | None:
        """Whether FID of `way` is within its interval of the full chain's, or better; None where nothing tells.

        Nothing tells without an interval, or where half of it is more than the FID of the full chain: it would hide that FID
        doubles. What lies outside even such an interval is worse all the same.
        """
        full, (gap, error) = self.full.value(FID) if self.full else None, self.gap(way) or (0.0, None)
        if full is None or error is None:
            return None
        return False if gap > error else True if error <= full else None

    @property
    def undecided(self) -> list[Way]:
        """Shorter ways of which nothing tells whether they are as good, where none is known to be."""
        return [] if self.cheapest else [way for way in self.shorter if self.passes(way) is None]


def _pairs(way: Way, full: Way) -> list[tuple[Sampled, Sampled]]:
    """The entries of `way` and of the full chain with equal seeds that have an FID."""
    by_seeds = {_seeds(entry.run): entry for entry in full.entries if FID in entry.point.metrics}
    return [(entry, by_seeds[_seeds(entry.run)]) for entry in way.entries
            if FID in entry.point.metrics and _seeds(entry.run) in by_seeds]


def _seeds(run: RunReport) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, label(value)) for key, value in run.differs.items() if is_seed(key)))


def comparisons(ways: Mapping[str, Sequence[Way]]) -> list[Comparison]:
    """Return the comparisons of `ways`, by training, each of at least two ways."""
    grouped: dict[tuple[str, str], list[Way]] = {}
    for training, members in ways.items():
        for way in members:
            grouped.setdefault((training, way.first.context), []).append(way)
    return [Comparison(training, members) for (training, _), members in grouped.items() if len(members) > 1]
