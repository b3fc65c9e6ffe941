"""The report's section on cost: what is counted, how it grows, and what was measured beside it."""

from jobs.cost.count import run_cost
from jobs.quantities import amount, size
from jobs.report.cost import achieved_flops, growths, layer_groups, sampled_steps, sampling_costs, stage_flops, with_checkpointing
from jobs.report.page.html import Cell, bullets, heading, paragraph, table
from jobs.report.run import RunReport
from jobs.report.study import StudyReport
from jobs.run.progress import duration
from jobs.spec.sections import Spec
from jobs.spec.stages import STAGES


def cost_section(study: StudyReport) -> list[str]:
    if study.main is None:
        return []
    run, spec = study.main, study.main.spec
    sizes = {run_cost(other.spec).parameters for other in study.runs if other.spec}
    others = f" The runs of this study have {min(sizes):,} to {max(sizes):,} parameters." if len(sizes) > 1 else ""
    return [paragraph(f"Counted from the spec of {run.name}, without running it; one operation is half a multiply-add."
                      f"{others}"),
            heading("Counted and measured"), _stages(study), paragraph(_speed(study, run)),
            heading("How it grows"), bullets(_statements(spec)), _growth(spec),
            heading("Sampling by length of the chain"), _sampling(study, run),
            heading("Where the network spends it"), _layers(spec),
            heading("Memory of one training process"), _memory(spec), paragraph(_measured_memory(study, run), "note")]


def _stages(study: StudyReport) -> str:
    rows = []
    for run in study.shown:
        flops = stage_flops(run)
        for stage in STAGES:
            time = study.times[run.name].get(stage)
            # Attempts that did not come through compute what is counted once more, or not all of it.
            rate = flops[stage] / time.seconds if time and time.seconds and run.state == "done" and time.attempts == 1 else None
            rows.append([run.name, stage, Cell(amount(flops[stage]), value=float(flops[stage])),
                         Cell(duration(time.seconds), "" if time.recorded else "from the log", time.seconds) if time else "",
                         Cell(f"{time.process_hours:.3g}", value=time.process_hours) if time else "",
                         Cell(amount(rate), value=rate) if rate else "", time.device if time else ""])
    return table(["run", "stage", "FLOP, counted", "wall time", "process hours", Cell("FLOP/s", "starting included"), "device"],
                 rows, sortable=True)


def _speed(study: StudyReport, run: RunReport) -> str:
    if run.name not in study.logs or (found := achieved_flops(run, study.logs[run.name])) is None:
        return ""
    achieved, share = found
    text = f"While training, {run.name} did {amount(achieved)}FLOP/s over all processes at the median logged speed"
    return text + (f", {100 * share:.0f} % of the devices' dense half-precision peak." if share is not None else
                   "; the share of the device's peak is not known for this device or precision.")


def _statements(spec: Spec) -> list[str]:
    cost, train, sample = run_cost(spec), spec.train, spec.sample
    R, again = amount(cost.recomputed_flops), ", and R once more for checkpointing" if cost.recomputed_flops else ""
    passes, counted = ("(3 F + R)", f"(3 × {{F}}FLOP + {R}FLOP)") if again else ("3 F", "3 × {F}FLOP")
    curve = sampled_steps(spec) - cost.sampling_steps
    main = cost.forward_flops * sample.num_samples * cost.sampling_steps
    F = amount(cost.forward_flops)
    T, images = spec.diffusion.diffusion_steps, spec.evaluate.nll_examples
    statements = [
        f"F, one forward pass of one image: {F}FLOP. It does not depend on T.",
        f"Training: {passes} × batch × iterations = {counted.format(F=F)} × {train.batch_size} × {train.iterations:,} = "
        f"{amount(cost.training_flops)}FLOP (forward, twice that backward{again}); "
        "each step draws one t an image, so T costs nothing here.",
        f"Sampling, the main chain: F × samples × K steps = {F}FLOP × {sample.num_samples:,} × {cost.sampling_steps:,} = "
        f"{amount(main)}FLOP, linear in the length K ≤ T of the chain.",
        "Within F, convolutions grow with pixels × num_channels²; attention's products with pixels² × num_channels at each "
        "attended resolution; activations with pixels × num_channels; parameters with num_channels². The image's channels "
        "enter the first and the last convolution only."]
    if curve:
        statements.insert(3, f"The curve's other points, {curve:,} steps together: F × samples × steps = {F}FLOP × "
                             f"{sample.num_samples:,} × {curve:,} = {amount(cost.sampling_flops - main)}FLOP more; with the "
                             f"main chain {amount(cost.sampling_flops)}FLOP.")
    if images:
        statements.insert(-1, f"Bits/dim: F × examples × T = {F}FLOP × {images:,} × {T:,} = "
                             f"{amount(cost.forward_flops * images * T)}FLOP: every timestep of every example.")
    return statements


def _growth(spec: Spec) -> str:
    rows = [[f"{growth.what} × 2", *(Cell(f"× {value:.3f}", value=value) for value in
                                     (growth.parameters, growth.flops, growth.activations))] for growth in growths(spec)]
    return table(["what doubles", "parameters", "FLOP of F", "activations"], rows)


def _sampling(study: StudyReport, run: RunReport) -> str:
    rows = [[f"{steps:,}", Cell(amount(flops), value=float(flops)),
             Cell(duration(seconds), value=seconds) if seconds is not None else ""]
            for steps, flops, seconds in sampling_costs(run, study.times[run.name])]
    return table(["steps", Cell("FLOP", f"{run.spec.sample.num_samples:,} samples"),
                  Cell("wall time", "in proportion to what was measured")], rows)


def _layers(spec: Spec) -> str:
    groups = layer_groups(spec)
    parameters, flops = sum(group.parameters for group in groups), sum(group.flops for group in groups)
    rows = [[f"{group.resolution}x{group.resolution} {group.kind}" if group.resolution > 1 else "embeddings",
             Cell(str(group.layers), value=group.layers),
             Cell(f"{group.parameters:,}", f"{100 * group.parameters / parameters:.1f} %", group.parameters),
             Cell(amount(group.flops), f"{100 * group.flops / flops:.1f} %", group.flops),
             Cell(size(group.activations), value=group.activations), Cell(size(group.checkpointed), value=group.checkpointed)]
            for group in groups]
    return table(["layers", "number", "parameters", Cell("FLOP", "an image, forward"), Cell("activations", "an image, fp32"),
                  Cell("with checkpointing", "kept between blocks")], rows, sortable=True)


def _memory(spec: Spec) -> str:
    rows = []
    used = spec.train.gradient_checkpointing
    for where in (False, True, *([] if isinstance(used, bool) else [used])):
        memory = with_checkpointing(spec, where).training_memory
        values = (memory.parameters + memory.half_parameters, memory.gradients, memory.optimizer, memory.ema,
                  memory.activations, memory.total)
        at = "" if isinstance(where, bool) else f" at {', '.join(map(str, where))} pixels"
        rows.append([f"{'with' if where else 'without'} gradient checkpointing{at}{' (this run)' if where == used else ''}",
                     *(Cell(size(value), value=value) for value in values)])
    return table(["", "weights", "gradients", "optimiser", "averages", Cell("activations", "of one microbatch"), "together"],
                 rows)


def _measured_memory(study: StudyReport, run: RunReport) -> str:
    values = study.logs[run.name].scalars.get("memory_gib", {}) if run.name in study.logs else {}
    if not values:
        return ""
    return (f"Measured at its most: {max(values.values()):.2f} GiB (on a GPU what torch allocated, on a CPU all that the "
            "process takes, libraries included).")
