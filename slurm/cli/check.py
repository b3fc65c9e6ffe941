"""`iddpm check`: print a spec with all defaults, and its cost. Loads no torch and writes nothing."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from jobs.cost.count import Cost, run_cost
from jobs.errors import UserError
from jobs.kinds.start_fit import start_problems, unwritten_problems
from jobs.quantities import amount, plural, size
from jobs.run.preflight import all_input_problems, foreign_problems
from jobs.run.study.sharing import shared_in
from jobs.run.waiting import missing_runs
from jobs.spec.kinds import draws_samples, kind_of
from jobs.spec.reading.file import load
from jobs.spec.reading.frozen import dump
from jobs.spec.resources import StageResources
from jobs.spec.samplings import samplings
from jobs.spec.sections import Spec
from slurm.cli.console import console

LISTED = 12  # runs of a sweep that are named


def print_check(path: Path, overrides: Sequence[str]) -> None:
    """Print the resolved spec (of a sweep: its first run), the cost, and missing inputs. Raises UserError for a bad spec."""
    study = load(path, overrides)
    first = study.runs[0]
    print(dump(first.spec))
    if len(study.runs) > 1:
        print(f"sweep: {len(study.runs)} runs; the spec above is the first run's")
        for run in study.runs[:LISTED]:
            print(f"  {run.name}")
        if len(study.runs) > LISTED:
            print(f"  ... and {len(study.runs) - LISTED} more")
    named = {run.name: run.spec for run in study.runs}
    cost = run_cost(first.spec, named)
    console().print(cost_table(first.spec, cost))
    if len(study.runs) > 1:
        costs, shared = [run_cost(run.spec, named) for run in study.runs], shared_in(named)
        total = sum(cost.training_flops * (run.name not in shared) + cost.sampling_flops + evaluation_flops(cost)
                    for run, cost in zip(study.runs, costs, strict=True))
        stored = sum(cost.samples_bytes * len(samplings(run.spec)) for run, cost in zip(study.runs, costs, strict=True))
        print(f"all {len(study.runs)} runs: {amount(total)}FLOP, {size(stored)} of samples")
        if shared:
            print(f"{plural(len(study.runs) - len(shared), 'training')}: {len(shared):,} of the runs share that of another")
    for note in study.notes:
        print(f"note: {note}")
    specs = [run.spec for run in study.runs]
    if wrong := foreign_problems(specs):
        raise UserError("\n".join(wrong))
    missing = all_input_problems(specs) + missing_runs(specs) + start_problems(specs) + unwritten_problems(study, study.runs)
    for problem in missing:
        print(f"not ready to run: {problem}")
    print(f"{path}: valid{', but not ready to run' if missing else ''}")


def cost_table(spec: Spec, cost: Cost) -> Table:
    """The cost of one run: parameters, FLOP, memory, and the work of each stage."""
    table = Table(box=box.SIMPLE, show_header=False)
    memory, precision = cost.training_memory, spec.train.precision
    own = "no bits/dim"
    if numbers := kind_of(spec).numbers(spec):
        most = "at most " if numbers[0].of else ""
        own = f"{numbers[0].name} of {most}{numbers[0].examples:,} examples, {amount(evaluation_flops(cost))}FLOP"
    snapshots = f", the snapshots of averages are {size(cost.snapshots_bytes)}" if cost.snapshots_bytes else ""
    rows = [
        ("parameters", f"{cost.parameters:,} in {cost.tensors} tensors"),
        ("forward pass", f"{amount(cost.forward_flops)}FLOP an image"),
        ("training step", f"{amount(cost.training_step_flops)}FLOP for a batch of {spec.train.batch_size}"),
        ("memory", f"{size(memory.total)} a rank in {precision}: activations {size(memory.activations)}, "
                   f"optimiser {size(memory.optimizer)}, EMA {size(memory.ema)}"),
        ("train", f"{spec.train.iterations:,} steps, {amount(cost.training_flops)}FLOP, on {where(spec.resources.train)}; "
                  f"a checkpoint is {size(cost.checkpoint_bytes)}{snapshots}"),
        *([("sample", _sampling(spec, cost))] if draws_samples(spec) else []),
        ("evaluate", f"{_metrics(spec)}{own}; on {where(spec.resources.evaluate)}"),
        ("report", f"the last job of `iddpm submit`: one process, {spec.resources.of_report.time} at most"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _sampling(spec: Spec, cost: Cost) -> str:
    others = len(samplings(spec)) - 1
    besides = f" and {others} other sampling{'s' if others > 1 else ''} for curves" if others else ""
    evaluations = kind_of(spec).evaluations(spec)
    each = f" ({evaluations:,} evaluations)" if evaluations != cost.sampling_steps else ""
    return (f"{spec.sample.num_samples:,} x {cost.sampling_steps:,} steps{each}{besides}, {amount(cost.sampling_flops)}FLOP, "
            f"in {cost.chunks:,} chunk{'s' if cost.chunks > 1 else ''} on {where(spec.resources.sample)}; "
            f"{size(cost.samples_bytes)}{' each' if others else ''}")


def _metrics(spec: Spec) -> str:
    """The metrics of samples; empty for a kind that draws none."""
    if not draws_samples(spec):
        return ""
    return f"{', '.join(spec.evaluate.metrics) or 'no metrics'} by {spec.evaluate.features}; "


def evaluation_flops(cost: Cost) -> int:
    """FLOP of bits/dim. The feature extractor is not counted."""
    return cost.evaluate_forward_passes * cost.forward_flops


def where(resources: StageResources) -> str:
    """The resources of a stage as text, such as "2 nodes x 8 GPUs"."""
    nodes = f"{resources.nodes} nodes x " if resources.most_nodes > 1 else ""
    count, kind = (resources.gpus_per_node, "GPU") if resources.gpus_per_node else (resources.tasks, "process")
    plural = {"GPU": "GPUs", "process": "processes"}[kind] if count > 1 else kind
    return f"{nodes}{count} {plural}"
