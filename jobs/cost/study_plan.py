"""The plan of a whole study: hours, jobs and disk of all runs, from the rates that `iddpm bench` measured."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.cost.bench.file import Bench, network_fingerprint, read_bench
from jobs.cost.count import run_cost
from jobs.cost.disk import bytes_by_run
from jobs.cost.plan import START_S, SamplingPlan, StagePlan, plan_run, plan_samplings, seconds_per_step
from jobs.cost.rates import NOTHING, Band
from jobs.errors import UserError
from jobs.quantities import plural, size, three_digits
from jobs.run.study.sharing import shared_in
from jobs.spec.kinds import stages_of
from jobs.spec.reading.sweep import Study
from jobs.spec.resources import StageResources, with_ends
from jobs.spec.sections import Spec
from jobs.spec.stages import STAGES
from jobs.storage.files import write_json


@dataclass(frozen=True)
class StudyPlan:
    runs: int
    sharing: int
    """Runs whose training another run does; it counts once."""
    samplings: list[SamplingPlan]
    """Of the first run."""
    stages: dict[StagePlan, int]
    """Number of runs that have a stage with this plan, in the order of the stages. Elastic stages have their most nodes here."""
    fewest: dict[StagePlan, int]
    """The same of the elastic stages with their fewest nodes."""
    gpu_hours: Band
    """Of the stages that ask for GPUs."""
    cpu_hours: Band
    """Hours of processor cores, of the stages that ask for no GPU."""
    stored_bytes: int
    snapshots_bytes: int
    """Of these, the bytes of the snapshots of averages (train.ema_snapshots)."""
    seconds_per_step: dict[str, dict[str, float]]
    """By run and stage, see `jobs.cost.plan.seconds_per_step`."""

    @property
    def requeues(self) -> int | None:
        """Number of jobs after the first ones, at the median. None where a stage never ends."""
        medians = [(stage.jobs[1] - 1) * runs for stage, runs in self.stages.items() if stage.jobs is not None]
        return sum(medians) if len(medians) == len(self.stages) else None


def plan_ahead(study: Study, folder: Path, file: Path | None, signal_lead_s: int) -> str:
    """The cost of `study` by the bench in `file`, in one line; "" without a file. `folder` is the study's.

    Writes the planned seconds per step to plan.json, which `iddpm status` compares with progress; but none for runs whose
    network is not the one that was measured, since scaling by FLOP is too rough for a verdict. Where the bench has no rate for
    the spec, the line says so, and nothing is written.
    """
    if file is None:
        return ""
    try:
        bench = read_bench(file)
        plan = plan_study(study, bench, signal_lead_s)
    except UserError as error:
        return f"not planned: {error}"
    measured = {run.name for run in study.runs if network_fingerprint(run.spec) == bench.network.fingerprint}
    paces = {run: pace for run, pace in plan.seconds_per_step.items() if run in measured}
    write_json(folder / "plan.json", {"bench": str(file), "seconds_per_step": paces})
    other = "" if paces else "; another network than this study's: scaled by FLOP, and `status` compares nothing with it"
    return f"planned by {file} ({bench.spec} on {bench.host}{other}): {totals(plan)}"


def plan_study(study: Study, bench: Bench, signal_lead_s: int) -> StudyPlan:
    """`signal_lead_s`: seconds before the end of a job at which the job receives the signal to save.

    Raises UserError where `bench` has no rate for the settings of a run, or a stage's time is too short.
    """
    stages: Counter[StagePlan] = Counter()
    fewest: Counter[StagePlan] = Counter()
    paces = {}
    gpu_hours = cpu_hours = NOTHING
    specs = {run.name: run.spec for run in study.runs}
    shared = shared_in(specs)
    for run in study.runs:
        resources = {stage: getattr(run.spec.resources, stage) for stage in stages_of(run.spec)}
        own = [stage for stage in resources if not (run.name in shared and stage == STAGES[0])]
        usable = {stage: usable_s(study, stage, each, signal_lead_s) for stage, each in resources.items()}
        elastic = [stage for stage in own if resources[stage].is_elastic]
        planned = plan_run(_at_end(run.spec, 0), bench, usable, specs)
        stages.update(planned[stage] for stage in own)
        if elastic:
            least = plan_run(_at_end(run.spec, -1), bench, usable, specs)
            fewest.update(least[stage] for stage in elastic)
        # A speed to compare with is known where the number of ranks is.
        paces[run.name] = {stage: pace for stage, pace in seconds_per_step(run.spec, planned).items() if stage not in elastic}
        for stage in own:
            each = resources[stage]
            if each.gpus_per_node:
                gpu_hours += planned[stage].seconds * (each.most_nodes * each.gpus_per_node / 3600)
            else:
                cpu_hours += planned[stage].seconds * (each.world_size * each.threads / 3600)
    stored = sum(bytes_by_run(specs).values())
    snapshots = sum(run_cost(run.spec).snapshots_bytes for run in study.runs if run.name not in shared)
    first = plan_samplings(study.runs[0].spec, bench, specs)
    return StudyPlan(len(study.runs), len(shared), first, _ordered(stages), _ordered(fewest),
                     gpu_hours, cpu_hours, stored, snapshots, paces)


def _at_end(spec: Spec, which: int) -> Spec:
    return spec.model_copy(update={"resources": with_ends(spec.resources, which)})


def _ordered(stages: Mapping[StagePlan, int]) -> dict[StagePlan, int]:
    return dict(sorted(stages.items(), key=lambda item: (STAGES.index(item[0].stage), -item[0].seconds.median)))


def usable_s(study: Study, stage: str, resources: StageResources, signal_lead_s: int) -> float:
    """Seconds of a job of `stage` from the first step to the signal to save. Raises UserError where there are none."""
    left = 60 * resources.minutes - signal_lead_s - START_S
    if left <= 0:
        raise UserError(f"{study.source}: resources.{stage}.time: {resources.time} leaves no time to work: a job takes up to "
                        f"{START_S:.0f} s to start, and must save {signal_lead_s} s before its end; give it more than "
                        f"{(START_S + signal_lead_s) / 60:.0f} minutes")
    return left


def remarks(plan: StudyPlan) -> list[str]:
    """Sentences: each assumption once, with the stages that rest on it; a stage that never ends; the limits of the plan."""
    stages_of: dict[str, dict[str, None]] = {}
    both = (*plan.stages, *plan.fewest)
    for stage in both:
        for text in stage.assumed:
            stages_of.setdefault(text, {})[stage.stage] = None
    endless = ["evaluate does not end: a chain of bits/dim does not fit into one job, and the next job begins the chain anew; "
               "give the stage more ranks, more time, or fewer nll_examples"] * any(stage.jobs is None for stage in both)
    elastic = ["a stage with a range of nodes has two rows, with the most and with the fewest; the totals are those with the "
               "most"] * bool(plan.fewest)
    shared = [f"{plural(plan.sharing, 'run')} differ{'s' if plan.sharing == 1 else ''} from another in nothing that training "
              "depends on, and share its training, which counts once"] * bool(plan.sharing)
    return [*shared, *(f"assumed, {', '.join(stages)}: {text}" for text, stages in stages_of.items()), *endless, *elastic,
            "longest piece: a chunk of samples, or a chain of bits/dim; one job: ranks with which the stage needs no requeue",
            f"not planned: queueing, saving, features of images; a job's start, {START_S:.0f} s, only where jobs are counted"]


def totals(plan: StudyPlan) -> str:
    """Hours, requeues and disk of the whole study in one line."""
    hours = [f"{three_digits(band.median)} {unit} ({three_digits(band.low)}–{three_digits(band.high)})"
             for band, unit in ((plan.gpu_hours, "GPU-hours"), (plan.cpu_hours, "CPU-hours")) if band.median]
    requeues = "" if plan.requeues is None else f", {plural(plan.requeues, 'requeue')}"
    snapshots = f" ({size(plan.snapshots_bytes)} of them snapshots of averages)" if plan.snapshots_bytes else ""
    return f"{plural(plan.runs, 'run')}: {' and '.join(hours)}{requeues}, about {size(plan.stored_bytes)} on disk{snapshots}"


def as_numbers(plan: StudyPlan, file: Path, bench: Bench) -> dict:
    """For scripts: seconds and hours as {low, median, high}."""
    stages, fewest = ([{**asdict(stage), "runs": runs} for stage, runs in each.items()] for each in (plan.stages, plan.fewest))
    return {"bench": str(file), "made": bench.made, "device": bench.device, "runs": plan.runs, "sharing": plan.sharing,
            "stages": stages, "samplings": [asdict(each) for each in plan.samplings],
            "fewest_nodes": fewest,
            "gpu_hours": asdict(plan.gpu_hours), "cpu_hours": asdict(plan.cpu_hours), "requeues": plan.requeues,
            "stored_bytes": plan.stored_bytes, "snapshots_bytes": plan.snapshots_bytes}
