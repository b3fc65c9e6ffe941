"""The section on cost: the counted cost, how it grows, and the measured cost beside it."""

from jobs.cost.count import Cost, training_passes
from jobs.quantities import amount, size
from jobs.report.cost import (
    LayerGroup,
    SamplingCost,
    StageTime,
    achieved_flops,
    growths,
    layer_groups,
    sampling_costs,
    stage_flops,
    with_checkpointing,
)
from jobs.report.diffusion_facts import bound_examples, chain_steps
from jobs.report.page.blocks import Block, Bullets, Cell, Heading, Paragraph, Row, Table
from jobs.report.run import RunReport
from jobs.report.study import StudyReport
from jobs.run.progress import duration
from jobs.spec.kinds import MODEL, draws_samples, kind_of
from jobs.spec.sections import Spec

WITHIN_F = ("Within F, convolutions grow with pixels × num_channels²; attention's products with pixels² × num_channels at each "
            "attended resolution; activations with pixels × num_channels; parameters with num_channels². The image's channels "
            "enter the first and the last convolution only.")
"""Of the U-Net of a diffusion model."""


def cost_blocks(study: StudyReport) -> list[Block]:
    run = study.main
    cost = run.cost if run else None
    if run is None or cost is None:
        return []
    spec, sizes = run.known_spec, {one.parameters for other in study.runs if (one := other.cost)}
    others = f" The runs of this study have {min(sizes):,} to {max(sizes):,} parameters." if len(sizes) > 1 else ""
    return [Paragraph(f"Counted from the spec of {run.name}, without running it; one operation is half a multiply-add.{others}"),
            Heading("Counted and measured"), _stages(study), Paragraph(_speed(study, run)),
            Heading("How it grows"), Bullets(_statements(spec, cost)), _growth(spec),
            *_chain_lengths(spec, sampling_costs(run, study.times[run.name])),
            Heading("Where the network spends it"), _layers(layer_groups(spec)),
            Heading("Memory of one training process"), _memory(spec), Paragraph(_measured_memory(study, run), "note")]


def _stages(study: StudyReport) -> Table:
    rows = [_stage_row(run, stage, flops, study.times[run.name].get(stage))
            for run in study.shown if (cost := run.cost) for stage, flops in stage_flops(cost).items()]
    return Table(["run", "stage", "FLOP, counted", "wall time", "process hours", Cell("FLOP/s", "starting included"), "device"],
                 rows, sortable=True)


def _stage_row(run: RunReport, stage: str, flops: int, time: StageTime | None) -> Row:
    counted = Cell(amount(flops), value=float(flops))
    if time is None:
        return [run.name, stage, counted, "", "", "", ""]
    # Several attempts compute some of the counted operations twice, and an unfinished stage not all of them.
    rate = flops / time.seconds if time.seconds and run.state == "done" and time.attempts == 1 else None
    return [run.name, stage, counted, Cell(duration(time.seconds), "" if time.recorded else "from the log", time.seconds),
            Cell(f"{time.process_hours:.3g}", value=time.process_hours), Cell(amount(rate), value=rate) if rate else "",
            time.device]


def _speed(study: StudyReport, run: RunReport) -> str:
    if run.name not in study.logs or (found := achieved_flops(run, study.logs[run.name])) is None:
        return ""
    (achieved, share), precision = found, run.known_spec.train.precision
    text = f"While training, {run.name} did {amount(achieved)}FLOP/s over all processes at the median logged speed"
    return text + (f", {100 * share:.0f} % of the devices' dense peak in {precision}." if share is not None else
                   "; the share of the device's peak is not known for this device or precision.")


def _statements(spec: Spec, cost: Cost) -> list[str]:
    """The equations of the cost, with this run's numbers. F and R are the operations of one image."""
    T, F = chain_steps(spec), amount(cost.forward_flops)
    return [f"F, one forward pass of one image: {F}FLOP.{' It does not depend on T.' if T else ''}",
            _training_statement(spec, cost), *sampling_statements(spec, cost),
            *([_bound_statement(spec, cost, T)] if T and bound_examples(spec) else []), *([WITHIN_F] if T else [])]


def _training_statement(spec: Spec, cost: Cost) -> str:
    F, R, train, passes = amount(cost.forward_flops), amount(cost.recomputed_flops), spec.train, training_passes(spec)
    again = ", and R once more for checkpointing" if cost.recomputed_flops else ""
    image, counted = f"{passes[MODEL]} F", f"{passes[MODEL]} × {F}FLOP"
    how = f"forward, twice that backward{again}"
    for name in passes.keys() - {MODEL}:
        other = sum(layer.flops for layer in kind_of(spec).layers(spec)[name])
        image, counted = f"{image} + {passes[name]} F_{name}", f"{counted} + {passes[name]} × {amount(other)}FLOP"
        how = "forward and backward passes of all networks"
    if again:
        image, counted = f"{image} + R", f"{counted} + {R}FLOP"
    if "+" in image:
        image, counted = f"({image})", f"({counted})"
    draws = "; each step draws one t an image, so T costs nothing here" if chain_steps(spec) else ""
    return (f"Training: {image} × batch × iterations = {counted} × {train.batch_size} × {train.iterations:,} = "
            f"{amount(cost.training_flops)}FLOP ({how}){draws}.")


def sampling_statements(spec: Spec, cost: Cost) -> list[str]:
    if not draws_samples(spec):
        return []
    F, samples = amount(cost.forward_flops), spec.sample.num_samples
    main = cost.forward_flops * samples * cost.evaluations
    others = round(cost.sampling_flops / (cost.forward_flops * samples) - cost.evaluations, 1)
    if not chain_steps(spec):
        return [f"Sampling: F × samples = {F}FLOP × {samples:,} = {amount(main)}FLOP."]
    steps = f"{cost.sampling_steps:,} steps of {spec.sample.sampler}" if hasattr(spec.sample, "sampler") else "its steps"
    evaluations = _count(cost.evaluations)
    of_guide = " An evaluation of the guide counts by the FLOP of the guide's own network." if kind_of(spec).guide(spec) else ""
    statements = [f"Sampling, the main chain of {steps}: F × samples × evaluations = {F}FLOP × {samples:,} × {evaluations} = "
                  f"{amount(main)}FLOP, linear in the length of the chain.{of_guide}"]
    if others:
        statements.append(f"Other samplings, {_count(others)} evaluations together: F × samples × evaluations = {F}FLOP × "
                          f"{samples:,} × {_count(others)} = {amount(cost.sampling_flops - main)}FLOP more; with the main chain "
                          f"{amount(cost.sampling_flops)}FLOP.")
    return statements


def _count(evaluations: float) -> str:
    return f"{evaluations:,.1f}".removesuffix(".0")


def _bound_statement(spec: Spec, cost: Cost, T: int) -> str:
    examples = bound_examples(spec)
    return (f"Bits/dim: F × examples × T = {amount(cost.forward_flops)}FLOP × {examples:,} × {T:,} = "
            f"{amount(cost.forward_flops * examples * T)}FLOP: every timestep of every example.")


def _growth(spec: Spec) -> Table:
    rows: list[Row] = [[f"{growth.doubled} × 2",
                        *(Cell(f"× {value:.3f}", value=value) for value in (growth.parameters, growth.flops, growth.activations))]
                       for growth in growths(spec)]
    return Table(["what doubles", "parameters", "FLOP of F", "activations"], rows)


def _chain_lengths(spec: Spec, costs: list[SamplingCost]) -> list[Block]:
    if not draws_samples(spec):
        return []
    rows: list[Row] = [[f"{cost.steps:,}", Cell(amount(cost.flops), value=float(cost.flops)),
                        "" if cost.seconds is None else Cell(duration(cost.seconds), value=cost.seconds)] for cost in costs]
    return [Heading("Sampling by length of the chain"),
            Table(["steps", Cell("FLOP", f"{spec.sample.num_samples:,} samples"),
                   Cell("wall time", "in proportion to the measured time")], rows)]


def _layers(groups: list[LayerGroup]) -> Table:
    parameters, flops = sum(group.parameters for group in groups), sum(group.flops for group in groups)
    rows: list[Row] = [
        [f"{group.resolution}x{group.resolution} {group.kind}" if group.resolution > 1 else "embeddings",
         Cell(str(group.layers), value=group.layers),
         Cell(f"{group.parameters:,}", f"{100 * group.parameters / parameters:.1f} %", group.parameters),
         Cell(amount(group.flops), f"{100 * group.flops / flops:.1f} %", group.flops),
         Cell(size(group.activations), value=group.activations), Cell(size(group.checkpointed), value=group.checkpointed)]
        for group in groups]
    return Table(["layers", "number", "parameters", Cell("FLOP", "an image, forward"), Cell("activations", "an image, fp32"),
                  Cell("with checkpointing", "kept between blocks")], rows, sortable=True)


def _memory(spec: Spec) -> Table:
    used = spec.train.gradient_checkpointing
    ways: list[bool | list[int]] = [False, True, *([] if isinstance(used, bool) else [used])]
    rows = [_memory_row(way, way == used, cost) for way in ways if (cost := with_checkpointing(spec, way))]
    return Table(["", "weights", "gradients", "optimiser", "averages", Cell("activations", "of one microbatch"), "together"],
                 rows)


def _memory_row(checkpointing: bool | list[int], is_used: bool, cost: Cost) -> Row:
    memory = cost.training_memory
    values = (memory.parameters + memory.half_parameters, memory.gradients, memory.optimizer, memory.ema,
              memory.activations, memory.total)
    at = "" if isinstance(checkpointing, bool) else f" at {', '.join(map(str, checkpointing))} pixels"
    return [f"{'with' if checkpointing else 'without'} gradient checkpointing{at}{' (this run)' if is_used else ''}",
            *(Cell(size(value), value=value) for value in values)]


def _measured_memory(study: StudyReport, run: RunReport) -> str:
    values = study.logs[run.name].scalars.get("memory_gib", {}) if run.name in study.logs else {}
    if not values:
        return ""
    return (f"The most that was measured: {max(values.values()):.2f} GiB (on a GPU, the memory that torch allocated; on a CPU, "
            "all memory of the process, libraries included).")
