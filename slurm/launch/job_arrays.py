"""Plan the job arrays of a study: the elements of each, its dependencies, and how many elements may run at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.spec.resources import StageResources
from jobs.spec.sections import Spec
from jobs.spec.stages import STAGES

REPORT = "report"


@dataclass(frozen=True)
class Array:
    """One sbatch call: `stage` for each of `runs`, element i for run i. The report is a single job without runs."""

    stage: str
    resources: StageResources
    runs: tuple[RunDir, ...]
    after_own: int | None = None
    """Index of an array in the plan. Its element i must succeed before element i starts."""
    after_own_queued: str | None = None
    """Id of an array that is in the queue already. Its element i must succeed before element i starts."""
    after_all: tuple[int, ...] = ()
    """Indices of arrays in the plan. All their elements must end, successful or not, before any element starts."""
    after_queued: tuple[str, ...] = ()
    """Ids of jobs that are in the queue already. These jobs must end before any element starts."""
    after_named: tuple[tuple[int, int | None], ...] = ()
    """Named runs, as (index of an array in the plan, element; None for a single job). These jobs must succeed before any
    element starts."""
    after_named_queued: tuple[str, ...] = ()
    """Ids of jobs of named runs that are in the queue already. These jobs must succeed before any element starts."""
    at_once: int | None = None
    """How many elements may run at the same time; None: all."""
    follow_up: int = 0
    """Where jobs may not be requeued: 0 for the first jobs of the stage, 1 for those that resume it behind them, and so on."""
    follow_ups_left: int = 0
    """How many follow-ups stand behind this array. A job with one ends with success when it has saved."""

    @property
    def size(self) -> int:
        """Number of jobs."""
        return max(len(self.runs), 1)


@dataclass(frozen=True)
class Need:
    """`stage` of `run` must succeed before a stage of another run, which names `run`, can start."""

    run: RunDir
    stage: str
    job: str | None = None
    """The job in the queue; None if the plan has an array for this stage."""


@dataclass(frozen=True)
class Chain:
    """Runs that lack the same stages, with the same resources: one array for each of `stages`, one after another."""

    stages: tuple[tuple[str, StageResources], ...]
    runs: tuple[RunDir, ...]
    behind: str | None = None
    """Id of an array in the queue: element i of the first stage waits for element i of that array."""
    needs: Mapping[str, frozenset[Need]] = field(default_factory=dict)
    """What every run of the chain waits for before a stage, beside its own stages. Stages that wait for nothing may be absent."""
    aligned: bool = False
    """Whether each run waits before its first stage for its own one of the needs alone: element i for element i of an array in
    the plan. So runs that share trainings wait for these."""


def chains_of(left: Mapping[RunDir, tuple[Spec, Sequence[str]]], max_size: int,
              needs: Mapping[tuple[RunDir, str], frozenset[Need]] | None = None) -> list[Chain]:
    """Group the runs by their missing stages (the value's second part), resources and needs; at most `max_size` runs a chain.

    `needs`: by run and stage. Runs with unlike needs cannot share an array, because all its elements have one dependency.
    """
    groups: dict[tuple, list[RunDir]] = {}
    for run, (spec, stages) in left.items():
        key = tuple((stage, getattr(spec.resources, stage), (needs or {}).get((run, stage), frozenset())) for stage in stages)
        groups.setdefault(key, []).append(run)
    return _aligned([Chain(tuple((stage, resources) for stage, resources, _ in key), tuple(runs[start:start + max_size]),
                           needs={stage: needed for stage, _, needed in key if needed})
                     for key, runs in groups.items() for start in range(0, len(runs), max_size)])


def _aligned(chains: Sequence[Chain]) -> list[Chain]:
    """Return the chains with runs that share the trainings of an array side by side: one such run of each in one array."""
    place = {run: (number, element) for number, chain in enumerate(chains) if STAGES[0] in dict(chain.stages)
             for element, run in enumerate(chain.runs)}
    rows: dict[tuple, dict[int, RunDir]] = {}
    for chain in chains:
        trainer = chain.runs[0].trainer
        if chain.runs[0].shares and chain.needs == {chain.stages[0][0]: frozenset([Need(trainer, STAGES[0])])}:
            number, element = place[trainer]
            for rank, run in enumerate(chain.runs):
                rows.setdefault((number, chain.stages, rank), {})[element] = run
    whole = {key: row for key, row in rows.items() if len(row) == len(chains[key[0]].runs) > 1}
    taken = {run for row in whole.values() for run in row.values()}
    rest = [replace(chain, runs=runs) for chain in chains if (runs := tuple(run for run in chain.runs if run not in taken))]
    return rest + [Chain(stages, tuple(row[element] for element in sorted(row)), aligned=True,
                         needs={stages[0][0]: frozenset(Need(run.trainer, STAGES[0]) for run in row.values())})
                   for (_, stages, _), row in whole.items()]


def build_arrays(chains: Sequence[Chain], report: StageResources, max_parallel: int | None,
                 queued: Sequence[str] = (), follow_ups: int = 0) -> list[Array]:
    """The arrays of all chains, with the report at the end.

    `report`: the resources of the report's job. `max_parallel`: the most GPUs (processes, for a stage without GPUs) that the
    study may use at once. The arrays then run one after another, each with as many elements as fit. `queued`: ids of the
    study's jobs that are in the queue already. `follow_ups`: how often a stage that was saved at its time limit is resumed by an
    array behind its first one, where jobs may not be requeued. Raises UserError if not even one run fits, or if runs wait for
    each other in a circle.
    """
    arrays: list[Array] = []
    last: dict[int, int] = {}  # index of a chain -> index of its newest array
    places: dict[tuple[RunDir, str], tuple[int, int | None]] = {}  # (run, stage) -> its place as in Array.after_named
    for number, stage in _in_order(chains):
        chain, resources = chains[number], dict(chains[number].stages)[stage]
        needed = chain.needs.get(stage, frozenset())
        if chain.aligned and needed:
            last[number], needed = places[next(iter(needed)).run, STAGES[0]][0], frozenset()
        for follow_up in range(follow_ups + 1):
            arrays.append(Array(
                stage, resources, chain.runs, after_own=last.get(number),
                after_own_queued=chain.behind if number not in last else None,
                after_all=(len(arrays) - 1,) if max_parallel and arrays else (),
                after_queued=tuple(queued) if max_parallel and not arrays else (),
                after_named=tuple(sorted(places[need.run, need.stage] for need in needed if need.job is None)),
                after_named_queued=tuple(sorted(need.job for need in needed if need.job is not None)),
                at_once=at_once(stage, resources, max_parallel) if max_parallel else None,
                follow_up=follow_up, follow_ups_left=follow_ups - follow_up))
            last[number] = len(arrays) - 1
        places |= {(run, stage): (last[number], element if len(chain.runs) > 1 else None)
                   for element, run in enumerate(chain.runs)}
    if arrays:
        arrays.append(Array(REPORT, report, (), after_all=tuple(sorted(last.values())), after_queued=tuple(queued)))
    return arrays


def _in_order(chains: Sequence[Chain]) -> Iterator[tuple[int, str]]:
    """Yield (index of the chain, stage) for each array: all training first, but no array before one that it waits for.

    With `max_parallel` the arrays run in this order.
    """
    wanted = [(number, stage) for stage in STAGES for number, chain in enumerate(chains) if stage in dict(chain.stages)]
    array_of = {(run, stage): place for place, (number, stage) in enumerate(wanted) for run in chains[number].runs}
    sorter: TopologicalSorter[int] = TopologicalSorter()
    last: dict[int, int] = {}
    for place, (number, stage) in enumerate(wanted):
        sorter.add(place, *(array_of[need.run, need.stage] for need in chains[number].needs.get(stage, ()) if need.job is None))
        if number in last:
            sorter.add(place, last[number])
        last[number] = place
    try:
        sorter.prepare()
    except CycleError as error:  # a spec that names a run of its own study by the run's folder
        names = [chains[wanted[place][0]].runs[0].path.name for place in error.args[1]]
        raise UserError(f"runs wait for each other in a circle: {' -> '.join(names)}") from error
    ready: list[int] = []
    while sorter.is_active():
        for place in sorter.get_ready():
            heappush(ready, place)
        place = heappop(ready)
        yield wanted[place]
        sorter.done(place)


def at_once(stage: str, resources: StageResources, max_parallel: int) -> int:
    """How many runs fit into `max_parallel` GPUs (or processes). Raises UserError if none fits."""
    width = resources.most_nodes * resources.gpus_per_node or resources.world_size
    if width > max_parallel:
        unit = "GPUs" if resources.gpus_per_node else "processes"
        raise UserError(f"--max-parallel {max_parallel}: one run needs {width} {unit} in resources.{stage}")
    return max_parallel // width


def hours(arrays: Sequence[Array]) -> str:
    """The GPU-hours and CPU-hours that the time limits allow, by stage and in total, as text."""
    gpus: dict[str, float] = {}
    cpus: dict[str, float] = {}
    for array in arrays:
        if array.follow_up:
            continue
        each, job_hours = array.resources, array.size * array.resources.minutes / 60
        if each.gpus_per_node:
            gpus[array.stage] = gpus.get(array.stage, 0) + job_hours * each.most_nodes * each.gpus_per_node
        else:
            cpus[array.stage] = cpus.get(array.stage, 0) + job_hours * each.world_size * each.threads
    words = [f"{sum(hours.values()):,.0f} {unit} ({', '.join(f'{stage} {value:,.0f}' for stage, value in hours.items())})"
             for unit, hours in (("GPU-hours", gpus), ("CPU-hours", cpus)) if hours]
    return f"at most {' and '.join(words)} without requeues" if words else "nothing to submit"


def graph(arrays: Sequence[Array]) -> str:
    """The dependencies as text for a person: one line an array, numbered from 1."""
    lines = []
    for number, array in enumerate(arrays, start=1):
        count = "1 job" if array.size == 1 else f"{array.size:,} jobs" + (f", {array.at_once:,} at once" if array.at_once else "")
        count += f", follow-up {array.follow_up}" if array.follow_up else ""
        lines.append(f"{number:>3}  {array.stage:<9} {count:<24} {'; '.join(_dependencies(array)) or 'at once'}")
    return "\n".join(lines)


def _dependencies(array: Array) -> Iterator[str]:
    if array.after_own is not None:
        yield f"element i after i of {array.after_own + 1}" if array.size > 1 else f"after {array.after_own + 1} succeeded"
    if array.after_own_queued:
        yield f"element i after i of {array.after_own_queued} in the queue"
    if array.after_named:
        named = [f"element {element} of {index + 1}" if element is not None else str(index + 1)
                 for index, element in array.after_named]
        yield f"after {', '.join(named)} succeeded"
    if array.after_named_queued:
        yield f"after {', '.join(array.after_named_queued)} in the queue succeeded"
    if array.after_all:
        yield f"after {', '.join(str(index + 1) for index in array.after_all)} ended"
    if array.after_queued:
        yield f"after {', '.join(array.after_queued)} in the queue"
