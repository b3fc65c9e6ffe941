"""`iddpm plan`: predict hours, jobs and disk of a study from the rates that `iddpm bench` measured."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from jobs.cost.bench.file import HOW, bench_to_plan_by, read_bench
from jobs.cost.plan import SamplingPlan
from jobs.cost.study_plan import StudyPlan, as_numbers, plan_study, remarks, totals
from jobs.errors import UserError
from jobs.quantities import count_span, plural, span
from jobs.spec.reading.file import load
from jobs.spec.stages import STAGES
from jobs.storage.files import json_text
from slurm.cli.console import console
from slurm.launch.profiles import load_profile

MAX_ROWS = 12
MAX_SAMPLINGS = 40


def print_plan(path: Path, overrides: Sequence[str], bench_file: Path | None, cluster: str | None, as_json: bool) -> None:
    """Print the plan of the spec in `path`, as a table or as JSON. `bench_file` None: the profile's, else the newest here.

    Raises UserError if the spec, bench file or cluster profile is missing or not valid, or if they do not fit together.
    """
    study, profile = load(path, overrides), load_profile(cluster)
    file = bench_file or bench_to_plan_by(profile.bench)
    if file is None:
        raise UserError(f"no bench-*.json in {Path.cwd()}: {HOW}; --bench names a file elsewhere")
    bench = read_bench(file)
    plan = plan_study(study, bench, profile.signal_lead_s)
    if as_json:
        print(json_text(as_numbers(plan, file, bench)), end="")
        return
    screen = console()
    screen.print(f"measured: {file} of {bench.made[:10]}: {bench.processor if bench.device == 'cpu' else bench.device}, torch "
                  f"{bench.torch}, {bench.spec}", soft_wrap=True)
    screen.print(plan_table(plan))
    if len(plan.samplings) > 1:
        print(f"samplings{f' of {study.runs[0].name}' if len(study.runs) > 1 else ''}:")
        screen.print(samplings_table(plan.samplings))
    report = f"report: the last job, one process, at most {study.runs[0].spec.resources.of_report.time}"
    for line in (*remarks(plan), report, *(f"note: {note}" for note in study.notes), totals(plan)):
        screen.print(line, soft_wrap=True)


def samplings_table(samplings: Sequence[SamplingPlan]) -> Table:
    """One row for each sampling of a run: the evaluations of the network for one sample, and the time for all samples."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("sampling", "evaluations", "time", "quartiles"):
        table.add_column(column, justify="left" if column == "sampling" else "right")
    for each in samplings[:MAX_SAMPLINGS]:
        table.add_row(each.name, f"{each.evaluations:,}", span(each.seconds.median), span(each.seconds.low, each.seconds.high))
    if len(samplings) > MAX_SAMPLINGS:
        table.add_row(f"... {len(samplings) - MAX_SAMPLINGS:,} more (--json)")
    return table


def plan_table(plan: StudyPlan) -> Table:
    """One row for each different stage of the study."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("planned", "runs", "ranks", "one run", "quartiles", "jobs", "longest piece", "one job"):
        table.add_column(column, justify="left" if column == "planned" else "right")
    rows = [*plan.stages.items(), *plan.fewest.items()]
    for stage, runs in sorted(rows, key=lambda row: STAGES.index(row[0].stage))[:MAX_ROWS]:
        jobs = "no end" if stage.jobs is None else count_span(stage.jobs[0], stage.jobs[2])
        pieces = f"{stage.pieces:,} x {span(stage.piece.median)}" if stage.piece else ""
        least = ("never" if stage.ranks_for_one_job is None else plural(stage.ranks_for_one_job, "rank")) if stage.piece else ""
        table.add_row(stage.stage, f"{runs:,}", str(stage.ranks), span(stage.seconds.median),
                      span(stage.seconds.low, stage.seconds.high), jobs, pieces, least)
    if len(rows) > MAX_ROWS:
        table.add_row(f"... {len(rows) - MAX_ROWS:,} more (--json)")
    return table
