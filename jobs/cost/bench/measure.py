"""How fast this machine trains and samples a spec's network: the stages' own steps on random images, in turns.

One process on the device it finds; `bench_ranks` does several. Nothing of a run is read or written.
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
from pathlib import Path

import torch

from diffusion.networks.unet import UNet
from jobs.cost.bench.file import Asked, Bench, Rate, Variant, batch_in_network, checkpointing, network_of, summary
from jobs.cost.bench.peaks import measure_peaks
from jobs.cost.bench.ranks import measure_scaling
from jobs.cost.bench.split import counted_flops, time_split
from jobs.cost.bench.timing import FULL, QUICK, Effort, Work, rates_in_turns, synchronize
from jobs.cost.bench.work import FOREVER, random_images, sampling_work, training_work, with_variant
from jobs.cost.count import run_cost
from jobs.kinds.seam import model_of
from jobs.parallel.group import Group, process_group
from jobs.quantities import size
from jobs.spec.kinds import MODEL
from jobs.spec.sections import Spec
from jobs.training.state import new_state

WARM_UP_STEPS = 2
PROFILED_STEPS = 2
IMAGES = 1024


@dataclass(frozen=True)
class Candidate:
    variant: Variant
    work: Work
    counted_bytes: int | None = None
    recover: Callable[[], None] = lambda: None
    """After the memory did not suffice."""


def bench(spec: Spec, source: str, quick: bool, compiled: bool, report: Callable[[str], None]) -> Bench:
    """Measure `spec`, which is called `source`. `compiled`: torch.compile too. `report` hears what is being measured.

    What does not fit into memory or does not compile is a rate with its `problem`.
    """
    effort, cores = QUICK if quick else FULL, len(os.sched_getaffinity(0))
    threads = {stage: min(getattr(spec.resources, stage).threads, cores) for stage in ("train", "sample")}
    spec = alone(spec)
    with tempfile.TemporaryDirectory() as folder, process_group(Path(folder) / "meeting", threads["train"]) as group:
        device, device_name = group.device, group.device_name
        precisions = list(dict.fromkeys(["fp32", "bf16", *(["fp16"] if device.type == "cuda" else []),
                                         spec.train.precision, spec.sample.precision]))
        report("peak rates")
        peaks = measure_peaks(device, precisions, effort)
        report("training")
        trained, split, training_flops = measure_training(spec, group, precisions, effort, quick, compiled)
        report("sampling")
        torch.set_num_threads(threads["sample"])
        sampled, forward_flops = measure_sampling(spec, device, precisions, effort, quick, compiled)
    if not quick:
        report("several ranks")
    flops = {"train": training_flops, "sample": forward_flops}
    return Bench(
        made=time.strftime("%Y-%m-%dT%H:%M:%S%z"), host=socket.gethostname(), processor=processor(), device=device_name,
        gpus=torch.cuda.device_count(), cores=cores, torch=str(torch.__version__), quick=quick, spec=source,
        asked=Asked(precision=spec.train.precision, gradient_checkpointing=checkpointing(spec.train),
                    train_batch_size=spec.train.batch_size, sample_batch_size=spec.sample.batch_size,
                    sample_precision=spec.sample.precision),
        network=network_of(spec, forward_flops, training_flops), peaks=peaks,
        rates=[with_share(rate, flops[rate.work], peaks) for rate in trained + sampled], split=split,
        scaling=[] if quick else measure_scaling(spec, effort))


def alone(spec: Spec) -> Spec:
    """`spec` for one rank that does what each of its ranks does at a time, for as long as one likes."""
    train = spec.train.model_copy(update={"iterations": FOREVER, "batch_size": batch_in_network(spec), "microbatch": None})
    one = spec.resources.train.model_copy(update={"nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1})
    return spec.model_copy(update={"train": train, "resources": spec.resources.model_copy(update={"train": one})})


def around(batch_size: int, factors: Sequence[float]) -> list[int]:
    return list(dict.fromkeys(max(1, round(batch_size * factor)) for factor in factors))


def with_share(rate: Rate, flops: int, peaks: dict[str, dict[str, float]]) -> Rate:
    """With its share of the better peak; `flops`: of one image."""
    peak = max(peaks[kind][rate.precision] for kind in peaks)
    return rate.model_copy(update={"share_of_peak": rate.per_second.median * flops / peak}) if rate.per_second else rate


def measure(candidates: Iterable[Candidate], effort: Effort, device: torch.device) -> list[Rate]:
    """A rate for each, those that work timed in turns."""
    tried = [(candidate, *warm_up(candidate, device)) for candidate in candidates]
    works = {candidate.variant: candidate.work for candidate, problem, _ in tried if not problem}
    timed = rates_in_turns(works, effort, device)
    rates = []
    for candidate, problem, memory in tried:
        variant, found = candidate.variant, timed.get(candidate.variant)
        rates.append(Rate(
            **variant.model_dump(), threads=torch.get_num_threads(), problem=problem, memory_bytes=memory,
            memory_is=None if memory is None else "measured" if device.type == "cuda" else "counted",
            per_second=summary([variant.batch_size * steps for steps in found]) if found else None))
    return rates


def warm_up(candidate: Candidate, device: torch.device) -> tuple[str, int | None]:
    """The first steps of a candidate: what went wrong, "" for nothing; and the memory that it takes, where that is known."""
    on_gpu, counted = device.type == "cuda", candidate.counted_bytes
    if not on_gpu and counted and counted > (free := free_memory()):
        return f"needs about {size(counted)}, {size(free)} are free", counted
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    try:
        for _ in range(WARM_UP_STEPS):
            candidate.work()
        synchronize(device)
    except torch.OutOfMemoryError:
        candidate.recover()
        torch.cuda.empty_cache()
        return "does not fit into the GPU's memory", None
    except Exception as error:
        if not (candidate.variant.compiled or candidate.variant.cuda_graph):
            raise
        # Without a compiler, or with one that fails, torch raises whatever it likes; so it does while it records.
        what = "torch.compile" if candidate.variant.compiled else "CUDA graph"
        return f"{what}: {type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}", None
    if candidate.variant.compiled:
        return "", None  # the other network lies in the memory too
    return "", torch.cuda.max_memory_allocated(device) if on_gpu else counted


def after_compiling(network: UNet, work: Work) -> Work:
    compile_once = cache(network.compile)  # with the first step, whose failure counts as the compiler's

    def compiled() -> None:
        compile_once()
        work()
    return compiled


def free_memory() -> int:
    """Bytes of main memory that a process could take now."""
    return 1024 * int(re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)[1])


def processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else platform.machine()


# Training

def measure_training(spec: Spec, group: Group, precisions: Sequence[str], effort: Effort, quick: bool,
                     compiled: bool) -> tuple[list[Rate], dict[str, float], int]:
    """Rates; shares of a step's time by kind of operation; operations of one image's step, with nothing recomputed."""
    own = Variant(work="train", precision=spec.train.precision, gradient_checkpointing=checkpointing(spec.train),
                  batch_size=spec.train.batch_size)
    variants = [Variant(work="train", precision=precision, gradient_checkpointing=where, batch_size=batch_size)
                for batch_size in around(own.batch_size, (1, 0.5, 2))  # the largest last: it may not fit
                for precision in precisions for where in dict.fromkeys((False, True, own.gradient_checkpointing))]
    if quick:
        variants = [variant for variant in variants
                    if variant.batch_size == own.batch_size or variant.model_copy(update={"batch_size": own.batch_size}) == own]
    data = random_images(spec, max(IMAGES, 2 * own.batch_size))
    state = new_state(spec, group)

    def recover() -> None:  # DDP does not go on after half a backward pass
        vars(state).update(vars(new_state(spec, group)))

    def candidates() -> Iterator[Candidate]:
        for variant in variants:
            yield Candidate(variant, training_work(state, variant, data),
                            run_cost(with_variant(spec, variant)).training_memory.total, recover)
        if compiled:
            other = new_state(spec, group)
            variant = own.model_copy(update={"compiled": True})
            yield Candidate(variant, after_compiling(other.parts[MODEL].network, training_work(other, variant, data)))

    rates = measure(candidates(), effort, group.device)
    single = Variant(work="train", precision="fp32", batch_size=1)
    flops = counted_flops(training_work(state, single, data))
    fits = any(not rate.problem for rate in rates[:len(variants)] if rate.batch_size == own.batch_size
               and (rate.precision, rate.gradient_checkpointing) == (own.precision, own.gradient_checkpointing))
    split = time_split(training_work(state, own, data), PROFILED_STEPS, group.device) if fits else {}
    return rates, split, flops


# Sampling

def measure_sampling(spec: Spec, device: torch.device, precisions: Sequence[str], effort: Effort, quick: bool,
                     compiled: bool) -> tuple[list[Rate], int]:
    """Rates; operations of one image's forward pass."""
    gc.collect()  # what trained lies in memory until then
    network = model_of(spec).network(spec).to(device).eval()
    sizes = around(spec.sample.batch_size, (1, 0.5, 0.25) if quick else (1, 0.5, 0.25, 0.125, 2))

    def candidates() -> Iterator[Candidate]:
        for batch_size in sizes:
            for precision in precisions:
                variant = Variant(work="sample", precision=precision, batch_size=batch_size)
                yield Candidate(variant, sampling_work(spec, network, variant, device))
        own = Variant(work="sample", precision=spec.sample.precision, batch_size=spec.sample.batch_size)
        for variant in recorded_variants(own, device):
            yield Candidate(variant, sampling_work(spec, network, variant, device))
        if compiled:
            other, variant = model_of(spec).network(spec).to(device).eval(), own.model_copy(update={"compiled": True})
            yield Candidate(variant, after_compiling(other, sampling_work(spec, other, variant, device)))

    rates = measure(candidates(), effort, device)
    x = torch.zeros(1, spec.data.channels, spec.data.image_size, spec.data.image_size, device=device)
    labels = [x.new_zeros(1, dtype=torch.int64)] if spec.data.class_cond else []
    with torch.no_grad():
        return rates, counted_flops(lambda: network(x, x.new_zeros(1), *labels))


def recorded_variants(own: Variant, device: torch.device) -> list[Variant]:
    return [own.model_copy(update={"cuda_graph": True})] if device.type == "cuda" else []
