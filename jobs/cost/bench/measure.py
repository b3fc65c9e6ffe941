"""Measures how fast this machine trains and samples the network of a spec: the stages' own steps, on random images, in turns.

One process measures, on a GPU where there is one; `jobs.cost.bench.ranks` starts several. No run is read or written.
"""

import gc
import os
import platform
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path

import torch
from torch import nn

from jobs.cost.bench.file import (
    Bench,
    PeakKind,
    Rate,
    SpecSettings,
    Variant,
    batch_in_network,
    checkpointing,
    network_of,
    quartiles_of,
)
from jobs.cost.bench.peaks import measure_peaks
from jobs.cost.bench.ranks import measure_scaling
from jobs.cost.bench.split import counted_flops, time_split
from jobs.cost.bench.timing import FULL, QUICK, Repeats, Work, rates_in_turns, synchronize
from jobs.cost.bench.work import FOREVER, random_images, sampling_work, training_work, use_of, using_work, with_variant
from jobs.cost.count import run_cost
from jobs.kinds.protocol import model_of
from jobs.parallel.group import Group, process_group
from jobs.quantities import size
from jobs.spec.kinds import MODEL, draws_samples, given_of, kind_of
from jobs.spec.precisions import Precision
from jobs.spec.samplings import unguided
from jobs.spec.sections import Spec
from jobs.training.state import new_state

WARM_UP_STEPS = 2
PROFILED_STEPS = 2
IMAGES = 1024  # at least, to draw training batches from


@dataclass(frozen=True)
class VariantStep:
    """A step that is to be timed."""

    variant: Variant
    work: Work
    counted_bytes: int | None = None
    """Memory that the step needs, where `jobs.cost.count` knows it."""
    recover: Callable[[], None] = lambda: None
    """Makes the other steps work again after this one ran out of memory."""


def bench(spec: Spec, source: str, quick: bool, compiled: bool, report: Callable[[str], None]) -> Bench:
    """Measure `spec`, which the user called `source`.

    `quick`: fewer variants and repeats, one rank. `compiled`: with torch.compile too. `report` is called with the name of
    each part before it is measured. A variant that does not fit into memory or does not compile is a rate with a `problem`.
    """
    repeats, cores = QUICK if quick else FULL, len(os.sched_getaffinity(0))
    use = use_of(spec)
    threads = {stage: min(getattr(spec.resources, stage).threads, cores) for stage in ("train", use.stage)}
    spec = for_one_rank(spec)
    with tempfile.TemporaryDirectory() as folder, process_group(Path(folder) / "meeting", threads["train"]) as group:
        device, device_name = group.device, group.device_name
        usual: list[Precision] = ["fp32", "tf32", "bf16", "fp16"] if device.type == "cuda" else ["fp32", "bf16"]
        precisions = list(dict.fromkeys([*usual, spec.train.precision, use.precision]))
        report("peak rates")
        peaks = measure_peaks(device, precisions, repeats)
        report("training")
        trained, split, training_flops = measure_training(spec, group, precisions, repeats, quick, compiled)
        report("sampling" if use.stage == "sample" else "forward passes")
        torch.set_num_threads(threads[use.stage])
        sampled, forward_flops = measure_sampling(spec, device, precisions, repeats, quick, compiled)
    if not quick:
        report("several ranks")
    flops = {"train": training_flops, "sample": forward_flops}
    return Bench(
        made=time.strftime("%Y-%m-%dT%H:%M:%S%z"), host=socket.gethostname(), processor=processor(), device=device_name,
        gpus=torch.cuda.device_count(), cores=cores, torch=str(torch.__version__), quick=quick, spec=source,
        asked=SpecSettings(precision=spec.train.precision, gradient_checkpointing=checkpointing(spec.train),
                           train_batch_size=spec.train.batch_size, sample_batch_size=use.batch_size,
                           sample_precision=use.precision, draws_samples=draws_samples(spec)),
        network=network_of(spec, forward_flops, training_flops), peaks=peaks,
        rates=[with_share_of_peak(rate, flops[rate.work], peaks) for rate in trained + sampled], split=split,
        scaling=[] if quick else measure_scaling(spec, repeats))


def for_one_rank(spec: Spec) -> Spec:
    """`spec` for a single rank that has one of the spec's ranks' share of the batch in the network, and trains without end."""
    train = spec.train.model_copy(update={"iterations": FOREVER, "batch_size": batch_in_network(spec), "microbatch": None})
    one = spec.resources.train.model_copy(update={"nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1})
    return spec.model_copy(update={"train": train, "resources": spec.resources.model_copy(update={"train": one})})


def scaled(batch_size: int, factors: Sequence[float]) -> list[int]:
    """`batch_size` times each of `factors`, rounded, at least 1; no number twice."""
    return list(dict.fromkeys(max(1, round(batch_size * factor)) for factor in factors))


def with_share_of_peak(rate: Rate, flops: int, peaks: dict[PeakKind, dict[Precision, float]]) -> Rate:
    """`rate` with its share of the better peak; `flops`: operations of one image."""
    peak = max(of_kind[rate.precision] for of_kind in peaks.values())
    return rate.model_copy(update={"share_of_peak": rate.per_second.median * flops / peak}) if rate.per_second else rate


def measure(steps: Iterable[VariantStep], repeats: Repeats, device: torch.device) -> list[Rate]:
    """A rate for each of `steps`. Those that work are timed in turns; the others have a `problem`."""
    tried = [(step, *warm_up(step, device)) for step in steps]
    works = {step.variant: step.work for step, problem, _ in tried if not problem}
    timed = rates_in_turns(works, repeats, device)
    rates = []
    for step, problem, memory in tried:
        variant, found = step.variant, timed.get(step.variant)
        rates.append(Rate(
            **variant.model_dump(), threads=torch.get_num_threads(), problem=problem, memory_bytes=memory,
            memory_is=None if memory is None else "measured" if device.type == "cuda" else "counted",
            per_second=quartiles_of([variant.batch_size * per_second for per_second in found]) if found else None))
    return rates


def warm_up(step: VariantStep, device: torch.device) -> tuple[str, int | None]:
    """Do the first, slow steps. Returns the problem ("" for none), and the bytes of memory that a step takes, if known."""
    on_gpu, counted = device.type == "cuda", step.counted_bytes
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    elif counted and counted > (free := free_memory()):
        return f"needs about {size(counted)}, {size(free)} are free", counted
    try:
        for _ in range(WARM_UP_STEPS):
            step.work()
        synchronize(device)
    except torch.OutOfMemoryError:
        step.recover()
        torch.cuda.empty_cache()
        return "does not fit into the GPU's memory", None
    except Exception as error:
        if not (step.variant.compiled or step.variant.cuda_graph):
            raise
        # torch raises errors of any type where there is no compiler, where the compiler fails, and while a graph is recorded.
        what = "torch.compile" if step.variant.compiled else "CUDA graph"
        return f"{what}: {type(error).__name__}: {_first_line(error)}", None
    if step.variant.compiled:
        return "", None  # the network that is not compiled is in the memory too
    return "", torch.cuda.max_memory_allocated(device) if on_gpu else counted


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no reason given").splitlines()[0]


def after_compiling(network: nn.Module, work: Work) -> Work:
    """`work` of `network`, which the first step compiles: there, an error of the compiler becomes a `problem`."""
    compile_once = cache(network.compile)

    def compiled() -> None:
        compile_once()
        work()
    return compiled


def free_memory() -> int:
    """Bytes of main memory that a process could take now."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return 1024 * int(fields["MemAvailable"].removesuffix("kB"))


def processor() -> str:
    """The processor's name, for a person."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else platform.machine()


# Training

def measure_training(spec: Spec, group: Group, precisions: Sequence[Precision], repeats: Repeats, quick: bool,
                     compiled: bool) -> tuple[list[Rate], dict[str, float], int]:
    """Rates; shares of a step's time by kind of operation; operations of one image's step without recomputation.

    `spec` is for one rank.
    """
    own = Variant(work="train", precision=spec.train.precision, gradient_checkpointing=checkpointing(spec.train),
                  batch_size=spec.train.batch_size)
    variants = accepted(spec, training_variants(own, precisions, quick))
    data = random_images(spec, max(IMAGES, 2 * own.batch_size))
    state = new_state(spec, group)

    def recover() -> None:  # DDP does not work after half a backward pass
        vars(state).update(vars(new_state(spec, group)))

    def steps() -> Iterator[VariantStep]:
        for variant in variants:
            yield VariantStep(variant, training_work(state, variant, data),
                              run_cost(with_variant(spec, variant)).training_memory.total, recover)
        for variant in fast_variants(own, group.device):
            yield VariantStep(variant, training_work(state, variant, data), recover=recover)
        if compiled:
            other = new_state(spec, group)
            variant = own.model_copy(update={"compiled": True})
            yield VariantStep(variant, after_compiling(other.parts[MODEL].network, training_work(other, variant, data)))

    rates = measure(steps(), repeats, group.device)
    single = Variant(work="train", precision="fp32", batch_size=1)
    flops = counted_flops(training_work(state, single, data))
    fits = any(not rate.problem for rate in rates[:len(variants)] if rate.batch_size == own.batch_size
               and (rate.precision, rate.gradient_checkpointing) == (own.precision, own.gradient_checkpointing))
    split = time_split(training_work(state, own, data), PROFILED_STEPS, group.device) if fits else {}
    return rates, split, flops


def training_variants(own: Variant, precisions: Sequence[Precision], quick: bool) -> list[Variant]:
    """The variants to measure around `own`, the spec's; the largest batch is last, because it may not fit.

    `quick`: other batches for the spec's own precision and checkpointing only.
    """
    variants = [Variant(work="train", precision=precision, gradient_checkpointing=where, batch_size=batch_size)
                for batch_size in scaled(own.batch_size, (1, 0.5, 2))
                for precision in precisions for where in dict.fromkeys((False, True, own.gradient_checkpointing))]
    return [variant for variant in variants if not quick or variant.batch_size == own.batch_size
            or variant.model_copy(update={"batch_size": own.batch_size}) == own]


def accepted(spec: Spec, variants: Sequence[Variant]) -> list[Variant]:
    """Return the variants whose precision and checkpointing the kind of `spec` has."""
    def refused(variant: Variant) -> bool:
        found = {key for key, _ in kind_of(spec).contradictions(with_variant(spec, variant))}
        return bool(found & {f"{variant.work}.precision", "train.gradient_checkpointing"})
    return [variant for variant in variants if not refused(variant)]


# Sampling

def measure_sampling(spec: Spec, device: torch.device, precisions: Sequence[Precision], repeats: Repeats, quick: bool,
                     compiled: bool) -> tuple[list[Rate], int]:
    """Rates; operations of one image's forward pass."""
    gc.collect()  # frees the memory of training
    network = model_of(spec).network(spec).to(device).eval()
    use = use_of(spec)
    sizes = scaled(use.batch_size, (1, 0.5, 0.25) if quick else (1, 0.5, 0.25, 0.125, 2))
    variants = [Variant(work="sample", precision=precision, batch_size=batch_size)
                for batch_size in sizes for precision in precisions]

    def steps() -> Iterator[VariantStep]:
        for variant in accepted(spec, variants):
            yield VariantStep(variant, using_work(spec, network, variant, device))
        own = Variant(work="sample", precision=use.precision, batch_size=use.batch_size)
        for variant in [*recorded_variants(spec, own, device), *fast_variants(own, device)] if draws_samples(spec) else ():
            yield VariantStep(variant, sampling_work(spec, network, variant, device))
        if compiled and draws_samples(spec):
            other, variant = model_of(spec).network(spec).to(device).eval(), own.model_copy(update={"compiled": True})
            yield VariantStep(variant, after_compiling(other, sampling_work(spec, other, variant, device)))

    rates = measure(steps(), repeats, device)
    return rates, flops_of_one_image(spec, network, device)


def flops_of_one_image(spec: Spec, network: nn.Module, device: torch.device) -> int:
    """Operations of one image's forward pass, as torch counts them."""
    kind = kind_of(spec)
    if draws_samples(spec) and (given_of(spec) or kind.steps(spec) == 1):  # a network of more than an image and a time
        work = sampling_work(spec, network, Variant(work="sample", precision="fp32", batch_size=1), device)
        work()  # what is computed once for all steps
        return counted_flops(work) // ceil(kind.evaluations(unguided(spec)) / kind.steps(spec))
    x = torch.zeros(1, spec.data.channels, spec.data.image_size, spec.data.image_size, device=device)
    labels = [x.new_zeros(1, dtype=torch.int64)] if spec.data.class_cond and draws_samples(spec) else []
    with torch.no_grad():
        return counted_flops(lambda: network(x, x.new_zeros(1), *labels))


def recorded_variants(spec: Spec, own: Variant, device: torch.device) -> list[Variant]:
    """`own` with a CUDA graph; nothing on a CPU, which has none, and for a kind that records no step."""
    recorded = own.model_copy(update={"cuda_graph": True})
    return [recorded] if device.type == "cuda" and kind_of(spec).records_steps(with_variant(spec, recorded)) else []


def fast_variants(own: Variant, device: torch.device) -> list[Variant]:
    """`own` without the promise of equal bits, whose price this shows; nothing on a CPU, which keeps that promise anyway."""
    return [own.model_copy(update={"deterministic": False})] if device.type == "cuda" else []
