"""`iddpm plan`: hours, jobs and disk of a study before anything is queued, from what `iddpm bench` measured."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from jobs.bench_file import HOW, Bench, newest_bench, read_bench
from jobs.cost import stored_bytes
from jobs.errors import UserError
from jobs.files import json_text, write_json
from jobs.plan import NOTHING, START_S, Band, StagePlan, plan_run, seconds_per_step
from jobs.quantities import size
from jobs.spec import StageResources
from jobs.spec_file import load
from jobs.stage import STAGES
from jobs.sweep import Study
from slurm.arrays import minutes
from slurm.profiles import Profile, load_profile

MAX_ROWS = 12
PIPE_WIDTH = 110  # columns, where there is no terminal that has a width


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
    """By run and stage, see `jobs.plan.seconds_per_step`."""

    @property
    def requeues(self) -> int | None:
        """At the median. None where a stage never ends."""
        if any(stage.jobs is None for stage in self.stages):
            return None
        return sum((stage.jobs[1] - 1) * runs for stage, runs in self.stages.items())


def print_plan(path: Path, overrides: Sequence[str], bench_file: Path | None, cluster: str | None, as_json: bool) -> None:
    """Raises UserError for a spec, bench or cluster profile that is not there or not valid, or that do not go together."""
    study, profile = load(path, overrides), load_profile(cluster)
    file = bench_file or find_bench(profile)
    if file is None:
        raise UserError(f"no bench-*.json in {Path.cwd()}: {HOW}; --bench names one elsewhere")
    bench = read_bench(file)
    plan = plan_study(study, bench, profile.signal_lead_s)
    if as_json:
        print(json_text(plain(plan, file, bench)), end="")
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    console.print(f"measured: {file} of {bench.made[:10]}: {bench.processor if bench.device == 'cpu' else bench.device}, torch "
                  f"{bench.torch}, {bench.spec}", soft_wrap=True)
    console.print(plan_table(plan))
    for line in (*remarks(plan), totals(plan)):
        console.print(line, soft_wrap=True)


def find_bench(profile: Profile) -> Path | None:
    return Path(profile.bench) if profile.bench else newest_bench(Path())


def plan_ahead(study: Study, folder: Path, profile: Profile) -> str:
    """Where there is a bench: what the study should cost by it, in words; how fast it should get on goes to plan.json for `status`.

    A bench that does not go with the spec is no obstacle, only said.
    """
    file = find_bench(profile)
    if file is None:
        return ""
    try:
        plan = plan_study(study, read_bench(file), profile.signal_lead_s)
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
    left = 60 * minutes(resources.time) - signal_lead_s - START_S
    if left <= 0:
        raise UserError(f"{study.source}: resources.{stage}.time: {resources.time} leaves no time to work: a job starts for up "
                        f"to {START_S:.0f} s and is told to save {signal_lead_s} s before its end; give it more than "
                        f"{(START_S + signal_lead_s) / 60:.0f} minutes")
    return left


def plan_table(plan: StudyPlan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("planned", "runs", "ranks", "one run", "quartiles", "jobs", "longest piece", "one job"):
        table.add_column(column, justify="left" if column == "planned" else "right")
    for stage, runs in list(plan.stages.items())[:MAX_ROWS]:
        jobs = "no end" if stage.jobs is None else count_span(stage.jobs[0], stage.jobs[2])
        pieces = f"{stage.pieces:,} x {span(stage.piece.median)}" if stage.piece else ""
        least = ("never" if stage.ranks_for_one_job is None else plural(stage.ranks_for_one_job, "rank")) if stage.piece else ""
        table.add_row(stage.stage, f"{runs:,}", str(stage.ranks), span(stage.seconds.median),
                      span(stage.seconds.low, stage.seconds.high), jobs, pieces, least)
    if len(plan.stages) > MAX_ROWS:
        table.add_row(f"... {len(plan.stages) - MAX_ROWS:,} more (--json)")
    return table


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


def plain(plan: StudyPlan, file: Path, bench: Bench) -> dict:
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
