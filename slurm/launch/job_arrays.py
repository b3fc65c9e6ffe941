"""What to submit for a study: job arrays, what each waits for, and how many elements of each may run at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.spec.sections import STAGES, Spec, StageResources

REPORT = "report"
REPORT_RESOURCES = StageResources(time="0:30:00")


@dataclass(frozen=True)
class Array:
    """One sbatch: `stage` for each of `runs`, element i for run i. The report is a single job without runs."""

    stage: str
    resources: StageResources
    runs: tuple[RunDir, ...]
    after_own: int | None = None
    """Place in the plan of the array whose element i must have succeeded before element i starts."""
    after_own_queued: str | None = None
    """The same for an array that is in the queue already, by its id."""
    after_all: tuple[int, ...] = ()
    """Places of the arrays that must have ended, well or not, before any element starts."""
    after_queued: tuple[str, ...] = ()
    """The same for jobs that are in the queue already, by id."""
    at_once: int | None = None
    """How many elements may run at the same time; None: all."""

    @property
    def size(self) -> int:
        return max(len(self.runs), 1)


@dataclass(frozen=True)
class Chain:
    """Runs that lack the same stages with the same resources."""

    stages: tuple[tuple[str, StageResources], ...]
    runs: tuple[RunDir, ...]
    behind: str | None = None
    """Id of the array in the queue that these stages belong behind, element i behind its element i."""


def chains_of(left: Mapping[RunDir, tuple[Spec, Sequence[str]]], max_size: int) -> list[Chain]:
    """Group the runs by the stages that are `left` of them; no chain longer than the cluster's arrays may be."""
    groups: dict[tuple, list[RunDir]] = {}
    for run, (spec, stages) in left.items():
        groups.setdefault(tuple((stage, getattr(spec.resources, stage)) for stage in stages), []).append(run)
    return [Chain(stages, tuple(runs[start:start + max_size]))
            for stages, runs in groups.items() for start in range(0, len(runs), max_size)]


def plan(chains: Sequence[Chain], max_parallel: int | None, queued: Sequence[str] = ()) -> list[Array]:
    """The arrays of all chains, with the report at the end.

    `max_parallel`: GPUs, or processes where a stage asks for none, that the study may use at once: its arrays then run one
    after another, each with as many elements as fit. `queued`: ids of the study's jobs that are in the queue already.
    Raises UserError where not even one run fits.
    """
    arrays: list[Array] = []
    last: dict[int, int] = {}  # of each chain, the place of its newest array
    # All training first: with a cap that is the order in which the arrays take their turns.
    for stage in STAGES:
        for number, chain in enumerate(chains):
            resources = dict(chain.stages).get(stage)
            if resources is None:
                continue
            arrays.append(Array(
                stage, resources, chain.runs, after_own=last.get(number),
                after_own_queued=chain.behind if number not in last else None,
                after_all=(len(arrays) - 1,) if max_parallel and arrays else (),
                after_queued=tuple(queued) if max_parallel and not arrays else (),
                at_once=at_once(stage, resources, max_parallel) if max_parallel else None))
            last[number] = len(arrays) - 1
    if arrays:
        arrays.append(Array(REPORT, REPORT_RESOURCES, (), after_all=tuple(sorted(last.values())), after_queued=tuple(queued)))
    return arrays


def at_once(stage: str, resources: StageResources, max_parallel: int) -> int:
    width = resources.nodes * resources.gpus_per_node or resources.world_size
    if width > max_parallel:
        what = "GPUs" if resources.gpus_per_node else "processes"
        raise UserError(f"--max-parallel {max_parallel}: one run needs {width} {what} in resources.{stage}")
    return max_parallel // width




def hours(arrays: Sequence[Array]) -> str:
    """What the time limits allow to be spent, by stage and in all."""
    gpus: dict[str, float] = {}
    cpus: dict[str, float] = {}
    for array in arrays:
        each, asked = array.resources, array.size * array.resources.minutes / 60
        if each.gpus_per_node:
            gpus[array.stage] = gpus.get(array.stage, 0) + asked * each.nodes * each.gpus_per_node
        else:
            cpus[array.stage] = cpus.get(array.stage, 0) + asked * each.world_size * each.threads
    words = [f"{sum(hours.values()):,.0f} {unit} ({', '.join(f'{stage} {value:,.0f}' for stage, value in hours.items())})"
             for unit, hours in (("GPU-hours", gpus), ("CPU-hours", cpus)) if hours]
    return f"at most {' and '.join(words)} without requeues" if words else "nothing to submit"


def graph(arrays: Sequence[Array]) -> str:
    """The dependencies, one array a line, for a person."""
    lines = []
    for place, array in enumerate(arrays):
        waits = [f"element i after i of {array.after_own + 1}"] if array.after_own is not None and array.size > 1 else []
        waits += [f"after {array.after_own + 1} succeeded"] if array.after_own is not None and array.size == 1 else []
        waits += [f"element i after i of {array.after_own_queued} in the queue"] if array.after_own_queued else []
        waits += [f"after {', '.join(str(other + 1) for other in array.after_all)} ended"] if array.after_all else []
        waits += [f"after {', '.join(array.after_queued)} in the queue"] if array.after_queued else []
        count = "1 job" if array.size == 1 else f"{array.size:,} jobs" + (f", {array.at_once:,} at once" if array.at_once else "")
        lines.append(f"{place + 1:>3}  {array.stage:<9} {count:<24} {'; '.join(waits) or 'at once'}")
    return "\n".join(lines)
