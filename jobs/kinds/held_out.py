"""The keys of `evaluate` of kinds that measure a likelihood: on which held-out examples."""

from typing import Protocol

from jobs.spec.fields import CountOrZero, File
from jobs.spec.kinds import HeldOut
from jobs.spec.sections import Contradiction, EvaluateAsWritten


class LikelihoodEvaluateAsWritten(EvaluateAsWritten):
    nll_data: File | None = None
    """Held-out data set for bits/dim."""
    nll_examples: CountOrZero = 0
    """How many of its examples, from the first on; 0: none."""


class LikelihoodSettings(Protocol):
    """A section `evaluate` with these keys."""

    @property
    def nll_data(self) -> str | None: ...

    @property
    def nll_examples(self) -> int: ...


def held_out_of(settings: LikelihoodSettings) -> list[HeldOut]:
    """Return the data set of held-out examples that a run with these settings reads."""
    if not settings.nll_examples or settings.nll_data is None:
        return []
    return [HeldOut("evaluate.nll_data", settings.nll_data, "evaluate.nll_examples", settings.nll_examples)]


def held_out_contradictions(settings: LikelihoodSettings) -> list[Contradiction]:
    """Return what the settings of the likelihood rule out."""
    if settings.nll_examples and settings.nll_data is None:
        return [("evaluate.nll_data", "nll_examples needs a held-out data set")]
    return []
