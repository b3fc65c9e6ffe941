"""`iddpm bench`: measure this machine with a spec's network, print and save the rates, and recommend settings."""

import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from jobs.cost.bench.file import PAYS, Bench, Rate, Variant, batch_that_pays
from jobs.errors import UserError
from jobs.quantities import amount, figure, size
from jobs.spec.reading.file import load
from jobs.storage.files import write_json
from slurm.cli.console import console

DEFAULT = Path("configs/quickstart.yaml")


def bench_machine(spec: Path | None, overrides: Sequence[str], quick: bool, compiled: bool, output: Path | None) -> None:
    """Measure, print the result, and write it to `output` (None: bench-HOST.json).

    Raises UserError if there is no spec to measure or `output` cannot be written.
    """
    if spec is not None and "=" in spec.name and not spec.exists():  # a setting for the default spec
        spec, overrides = None, (str(spec), *overrides)
    if spec is None and not DEFAULT.is_file():
        raise UserError(f"which network? Name a spec: `iddpm bench SPEC` (there is no {DEFAULT} here, which is the default)")
    study = load(spec or DEFAULT, overrides)
    output = output or Path(f"bench-{re.sub('[^A-Za-z0-9._-]', '-', socket.gethostname())}.json")
    if output.is_dir() or not output.parent.is_dir():
        raise UserError(f"--output {output}: {'a folder' if output.is_dir() else 'no such folder'}; name a .json file")
    from jobs.cost.bench.measure import bench
    found = bench(study.runs[0].spec, " ".join((str(spec or DEFAULT), *overrides)), quick, compiled,
                  lambda text: print(f"measuring: {text}", file=sys.stderr, flush=True))
    write_json(output, found.model_dump(mode="json"))
    print_bench(found)
    print(f"{output}: for `iddpm plan`")


def print_bench(bench: Bench) -> None:
    """Print the peaks, a table of rates each for training and sampling, the scaling, and the recommended settings."""
    screen, network = console(), bench.network
    where = f"{bench.cores} cores of {bench.processor}" if bench.device == "cpu" else f"{bench.gpus} x {bench.device}"
    lines = [
        f"{where}, torch {bench.torch}; {bench.spec}: {network.parameters:,} parameters",
        f"an image takes {amount(network.forward_flops_by_torch)}FLOP forward, {amount(network.training_flops_by_torch)}FLOP "
        f"in training, as torch counts; `iddpm check` counts {amount(network.forward_flops)}FLOP, "
        f"{amount(network.training_flops)}FLOP",
        *(f"peak {kind}: " + ", ".join(f"{precision} {amount(rate)}FLOP/s" for precision, rate in rates.items())
          for kind, rates in bench.peaks.items())]
    for line in lines:
        screen.print(line, soft_wrap=True)
    used = ("sampling", "image-steps/s") if bench.asked.draws_samples else ("forward pass", "images/s")
    for work, title, unit in (("train", "training", "images/s"), ("sample", *used)):
        screen.print(rates_table(title, unit, [rate for rate in bench.rates if rate.work == work]))
    if bench.split:
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in bench.split.items())
        screen.print(f"a training step: {shares}", soft_wrap=True)
    for scaling in bench.scaling:
        found = scaling.problem
        if share := scaling.efficiency:
            found = f"{share.median:.0%} of {scaling.ranks} times one rank ({share.q25:.0%}–{share.q75:.0%})"
        screen.print(f"training over {scaling.ranks} ranks: {found}", soft_wrap=True)
    screen.print(recommendation(bench), soft_wrap=True)


def rates_table(title: str, unit: str, rates: Sequence[Rate]) -> Table:
    """A table of `rates`. Quartiles are over repeats. The memory column is left out if no memory is known."""
    table = Table(box=box.SIMPLE_HEAD)
    memory_is = next((f"{rate.memory_is} memory" for rate in rates if rate.memory_is), None)
    columns = [title, "batch", unit, "quartiles", "of peak", *([memory_is] if memory_is else [])]
    for column in columns:
        table.add_column(column, justify="left" if column == title else "right")
    for rate in rates:
        where = rate.gradient_checkpointing
        pixels = "" if isinstance(where, bool) else f" at {', '.join(map(str, where))}"
        name = (rate.precision + " checkpointing" * bool(where) + pixels + " compiled" * rate.compiled
                + " CUDA graph" * rate.cuda_graph + " not deterministic" * (not rate.deterministic))
        measured = ["–", rate.problem, ""]
        if found := rate.per_second:
            measured = [figure(found.median), f"{figure(found.q25)}–{figure(found.q75)}", f"{rate.share_of_peak:.0%}"]
        memory = size(rate.memory_bytes) if rate.memory_bytes else ""
        table.add_row(name, str(rate.batch_size), *measured, *([memory] if memory_is else []))
    return table


def recommendation(bench: Bench) -> str:
    """The recommended settings for this machine, in one sentence."""
    rates = [rate for rate in bench.rates
             if not rate.compiled and not rate.cuda_graph and rate.deterministic and rate.per_second]
    training = [rate for rate in rates if rate.work == "train" and rate.batch_size == bench.asked.train_batch_size]
    if not training:
        return (f"No training step with {bench.asked.train_batch_size} images at once works here: set train.microbatch to a "
                "batch size that works in the table, and measure again.")
    # Checkpointing saves memory and costs time: only if no step works without it.
    works = {rate.gradient_checkpointing for rate in training}
    checkpointing = next(where for where in (False, bench.asked.gradient_checkpointing, True) if where in works)
    (best, speed), *others = [(rate, rate.per_second) for rate in training
                              if rate.gradient_checkpointing == checkpointing and rate.per_second]
    for rate, per_second in others:  # fp32 is the first: another precision must be clearly faster
        if per_second.q25 > speed.q75:
            best, speed = rate, per_second
    where = str(checkpointing).lower() if isinstance(checkpointing, bool) else f"[{','.join(map(str, checkpointing))}]"
    settings = [f"train.precision={best.precision}", f"train.gradient_checkpointing={where}"]
    if any(rate.work == "sample" and rate.precision == bench.asked.sample_precision for rate in rates):
        stage = "sample" if bench.asked.draws_samples else "evaluate"
        settings.append(f"{stage}.batch_size={batch_that_pays(bench, bench.asked.sample_precision)}")
    if graph_pays(bench):
        settings.append("sample.cuda_graph=true")
    return f"For this machine: {' '.join(settings)} (the smallest batch within {1 - PAYS:.0%} of the fastest)"


def graph_pays(bench: Bench) -> bool:
    """Whether a reverse step as a CUDA graph was clearly faster than the same step launched kernel by kernel."""
    measured = {Variant(**rate.model_dump(include=set(Variant.model_fields))): rate.per_second for rate in bench.rates
                if rate.per_second}
    plain = {variant: variant.model_copy(update={"cuda_graph": False}) for variant in measured if variant.cuda_graph}
    return any(found in measured and measured[graph].q25 > measured[found].q75 for graph, found in plain.items())
