"""What a guide adds to the cost of sampling, counted from its own network."""

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.spec.kinds import MODEL, kind_of
from jobs.spec.references import is_in_study, references
from jobs.spec.samplings import unguided
from jobs.spec.sections import Spec
from jobs.storage.stamps import Stamp, stamps_of

NO_OTHERS: Mapping[str, Spec] = MappingProxyType({})


def evaluations_worth(spec: Spec, others: Mapping[str, Spec] = NO_OTHERS) -> float:
    """Return the evaluations of spec.sample for one sample, each counted by its FLOP in units of the network's own evaluation.

    `others`: the specs of the study's runs by name; runs of other studies are read from their folders. A guide whose spec is
    not to be had counts as the network itself.
    """
    kind = kind_of(spec)
    guide, evaluations = kind.guide(spec), kind.evaluations(spec)
    if guide is None:
        return evaluations
    other = spec if guide.run is None else _spec_of(guide.run, others)
    alone = kind.evaluations(unguided(spec))
    each = guide.passes * (forward_flops(other) / forward_flops(spec) if other else 1)
    return alone + (evaluations - alone) * each


def named_specs(run: RunDir, spec: Spec) -> dict[str, Spec]:
    """Return the specs of the runs of its study that `spec` of `run` names, by name, as far as they can be read."""
    found = {}
    for each in references(spec):
        with suppress(UserError, OSError):
            if each.in_study:
                found[each.run] = RunDir(run.path.parent / each.run).spec
    return found


def forward_flops(spec: Spec) -> int:
    """Return the operations of one image's pass through the network that samples."""
    return sum(layer.flops for layer in kind_of(spec).layers(spec)[MODEL])


def _spec_of(run: str, others: Mapping[str, Spec]) -> Spec | None:
    if is_in_study(run):
        return others.get(run)
    try:
        return _read(run, stamps_of([str(RunDir(Path(run)).spec_file)]))
    except (UserError, OSError):
        return None


@lru_cache(maxsize=64)  # each of a thousand samplings may name the run
def _read(run: str, stamps: tuple[Stamp, ...]) -> Spec:
    return RunDir(Path(run)).spec
