"""The plan of a whole study: hours, jobs and disk of its runs, from what `iddpm bench` measured."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.cost.bench.file import Bench, read_bench
from jobs.cost.count import stored_bytes
from jobs.cost.plan import NOTHING, START_S, Band, StagePlan, plan_run, seconds_per_step
from jobs.errors import UserError
from jobs.quantities import size
from jobs.spec.sections import STAGES, StageResources
from jobs.spec.sweep import Study
from jobs.storage.files import write_json


@dataclass(frozen=True)
class StudyPlan:
    runs: int
    stages: dict[StagePlan, int]
    """How many runs have a stage with this plan, in the stages' order."""
    gpu_hours: Band
    """Of the stages that ask for GPUs; of the others their processors' hours."""
    cpu_hours: Band
    stored_bytes: int
    seconds_per_step: dict[str, dict[str, float]]
    """By run and stage, see `jobs.cost.plan.seconds_per_step`."""

    @property
    def requeues(self) -> int | None:
        """At the median. None where a stage never ends."""
        if any(stage.jobs is None for stage in self.stages):
            return None
        return sum((stage.jobs[1] - 1) * runs for stage, runs in self.stages.items())


def plan_ahead(study: Study, folder: Path, file: Path | None, signal_lead_s: int) -> str:
    """Where there is a bench: what the study should cost by it, in words; how fast it should get on goes to plan.json for `status`.

    A bench that does not go with the spec is no obstacle, only said.
    """
    if file is None:
        return ""
    try:
        plan = plan_study(study, read_bench(file), signal_lead_s)
    except UserError as error:
        return f"not planned: {error}"
    write_json(folder / "plan.json", {"bench": str(file), "seconds_per_step": plan.seconds_per_step})
    return f"planned by {file}: {totals(plan)}"


def plan_study(study: Study, bench: Bench, signal_lead_s: int) -> StudyPlan:
    stages: Counter[StagePlan] = Counter()
    paces = {}
    gpu_hours = cpu_hours = NOTHING
    for run in study.runs:
        resources = {stage: getattr(run.spec.resources, stage) for stage in STAGES}
        usable = {stage: usable_s(study, stage, each, signal_lead_s) for stage, each in resources.items()}
        planned = plan_run(run.spec, bench, usable)
        stages.update(planned.values())
        paces[run.name] = seconds_per_step(run.spec, planned)
        for stage, each in resources.items():
            if each.gpus_per_node:
                gpu_hours += planned[stage].seconds * (each.nodes * each.gpus_per_node / 3600)
            else:
                cpu_hours += planned[stage].seconds * (each.world_size * each.threads / 3600)
    ordered = sorted(stages.items(), key=lambda item: (STAGES.index(item[0].stage), -item[0].seconds.median))
    return StudyPlan(len(study.runs), dict(ordered), gpu_hours, cpu_hours, sum(stored_bytes(run.spec) for run in study.runs), paces)


def usable_s(study: Study, stage: str, resources: StageResources, signal_lead_s: int) -> float:
    """Seconds of a job of `stage` from its first step to the signal to save. Raises UserError where none are left."""
    left = 60 * resources.minutes - signal_lead_s - START_S
    if left <= 0:
        raise UserError(f"{study.source}: resources.{stage}.time: {resources.time} leaves no time to work: a job starts for up "
                        f"to {START_S:.0f} s and is told to save {signal_lead_s} s before its end; give it more than "
                        f"{(START_S + signal_lead_s) / 60:.0f} minutes")
    return left


def remarks(plan: StudyPlan) -> list[str]:
    """What was assumed, and what will not work; each once."""
    stages_of: dict[str, dict[str, None]] = {}
    for stage in plan.stages:
        for text in stage.assumed:
            stages_of.setdefault(text, {})[stage.stage] = None
    stuck = ["evaluate does not end: a chain of bits/dim does not fit into one job, and begins anew in the next; give it more "
             "ranks, more time, or fewer nll_examples"] * any(stage.jobs is None for stage in plan.stages)
    return [*(f"assumed, {', '.join(stages)}: {text}" for text, stages in stages_of.items()), *stuck,
            "longest piece: a chunk of samples, or a chain of bits/dim; one job: ranks with which the stage needs no requeue",
            f"not planned: queueing, saving, features of images; a job's start, {START_S:.0f} s, only where jobs are counted"]


def totals(plan: StudyPlan) -> str:
    hours = [f"{figure(band.median)} {unit} ({figure(band.low)}–{figure(band.high)})"
             for band, unit in ((plan.gpu_hours, "GPU-hours"), (plan.cpu_hours, "CPU-hours")) if band.median]
    requeues = "" if plan.requeues is None else f", {plural(plan.requeues, 'requeue')}"
    return f"{plural(plan.runs, 'run')}: {' and '.join(hours)}{requeues}, about {size(plan.stored_bytes)} on disk"


def as_numbers(plan: StudyPlan, file: Path, bench: Bench) -> dict:
    """For scripts: seconds and hours as {low, median, high}."""
    stages = [{**asdict(stage), "runs": runs} for stage, runs in plan.stages.items()]
    return {"bench": str(file), "made": bench.made, "device": bench.device, "runs": plan.runs, "stages": stages,
            "gpu_hours": asdict(plan.gpu_hours), "cpu_hours": asdict(plan.cpu_hours), "requeues": plan.requeues,
            "stored_bytes": plan.stored_bytes}


def span(*seconds: float) -> str:
    """Three digits and a unit: 2.5 h, or 2.41–2.6 h for two."""
    unit_s, unit = next(((unit_s, unit) for unit_s, unit in ((3600, "h"), (60, "min")) if max(seconds) >= unit_s), (1, "s"))
    return f"{'–'.join(figure(value / unit_s) for value in seconds)} {unit}"


def count_span(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
