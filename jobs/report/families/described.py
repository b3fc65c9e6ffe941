"""The families of models in a study: runs that minimise, train and sample alike, with the description that their kind gives."""

from collections.abc import Iterable
from dataclasses import dataclass

from jobs.report.run import RunReport
from jobs.spec.kinds import Description, kind_of


@dataclass(frozen=True)
class Family:
    description: Description
    runs: list[RunReport]


def families_of(runs: Iterable[RunReport]) -> list[Family]:
    """Return the families of those of `runs` that have a spec, in the order of their first runs."""
    found: dict[Description, list[RunReport]] = {}
    for run in runs:
        if run.spec:
            found.setdefault(kind_of(run.spec).description(run.spec), []).append(run)
    return [Family(description, members) for description, members in found.items()]
