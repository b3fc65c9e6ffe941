"""How fast a GPU trains and samples, in one go of at most eight minutes: python tests/gpu/bench.py [--seconds 480] [--json FILE]

Peaks of products and convolutions; steps of training and sampling by precision, batch, layout, compiling and CUDA graphs, on
random images; where the time of the best training step goes. Each line appears as soon as it is measured; what does not fit
into the time is left out, and named. A table comes at the end, and the same numbers as JSON.

IDDPM_GPU_TESTS=cpu in the environment: measure the quickstart's network on the CPU, to see that this program is in order.
"""

import argparse
import gc
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from jobs.cost.bench.file import Variant
from jobs.cost.bench.measure import for_one_rank
from jobs.cost.bench.peaks import measure_peaks
from jobs.cost.bench.timing import Repeats, Work, seconds_of, synchronize
from jobs.cost.bench.work import random_images, sampling_work, training_work
from jobs.cost.count import run_cost
from jobs.kinds.protocol import model_of
from jobs.parallel.compiling import BLOCKS, compile_in_place
from jobs.parallel.determinism import repeating
from jobs.parallel.group import Group, process_group
from jobs.spec.reading.file import load
from jobs.spec.sections import Spec
from jobs.training import state as training
from jobs.training.state import new_state

MAKE_PART = training._part
ROOT = Path(__file__).resolve().parents[2]
ON_CPU = os.environ.get("IDDPM_GPU_TESTS") == "cpu"
SPECS = ["quickstart"] if ON_CPU else ["cifar10", "cifar10-small", "imagenet64"]
PRECISIONS = ("fp32", "bf16") if ON_CPU else ("fp32", "tf32", "bf16", "fp16")
SLICES, SLICE_S, WARM_UP = 5, 0.25, 3
PROFILED = (0, 2, 3, 6)
"""Numbers of the ways whose kernels are listed: training and sampling of cifar10, as they are and at their best."""
ANNOTATIONS = ("DistributedDataParallel.", "Optimizer.", "## ", "Torch-Compiled Region", "CompiledFunction", "ProfilerStep")
"""Beginnings of names that stand for many kernels."""
# Patterns of kernels' names; the first that matches decides.
CATEGORIES = (
    ("compiled (triton)", r"^triton_"),
    ("layout", r"nchwToNhwc|nhwcToNchw|TensorTransform|transpose"),
    ("attention", r"flash|fmha|attention|softmax"),
    ("convolution", r"xmma|implicit_gemm|implicit_convolve|wgrad|dgrad|fprop|conv2d|convolve|winograd"),
    ("GEMM", r"gemm|nvjet|cutlass|splitK"),
    ("norm", r"RowwiseMoments|GroupNorm|GammaBeta|InternalGradients|ComputeFusedParams|ComputeBackward|WelfordOps"),
    ("optimiser, EMA", r"multi_tensor|Fused|lpnorm"),
    ("copies and casts", r"copy|Memcpy|Memset|CatArray"),
    ("reductions", r"reduce_kernel"),
    ("elementwise", r"elementwise|dropout|silu"),
)


@dataclass(frozen=True)
class Way:
    """One way to do a step."""

    spec: str
    work: str
    precision: str
    batch_size: int
    repeating: bool = True
    channels_last: bool = False
    compiled: str = ""
    """blocks: each residual block and attention layer by itself; whole: the network."""
    graph: bool = False
    checkpointing: bool = False

    @property
    def options(self) -> str:
        named = {"fast kernels": not self.repeating, "channels_last": self.channels_last,
                 f"compiled {self.compiled}": bool(self.compiled), "CUDA graph": self.graph, "checkpointing": self.checkpointing}
        return ", ".join(name for name, there in named.items() if there)


@dataclass
class Row:
    way: Way
    ms: float | None = None
    """Of a step, the median."""
    spread: float | None = None
    """Of the slices: (largest - smallest) / median."""
    per_second: float | None = None
    share: float | None = None
    """Of the peak of this precision."""
    gib: float | None = None
    first_s: float | None = None
    """Seconds of the first steps, compiling included."""
    problem: str = ""

    def __str__(self) -> str:
        way = f"{self.way.spec:14s} {self.way.work:6s} {self.way.precision:5s} {self.way.batch_size:5d}  "
        if self.ms is None:
            return f"{way}{self.problem}  {self.way.options}"
        return (f"{way}{self.ms:8.2f} ms ±{self.spread:3.0%} {self.per_second:9.0f}/s {self.share:5.1%} {self.gib:6.1f} GiB "
                f"{self.first_s:6.1f} s  {self.way.options}")


def ways() -> Iterator[Way]:
    """Yield all ways, the most telling first: what is at the end may be left out for lack of time."""
    if ON_CPU:
        yield Way("quickstart", "train", "bf16", 8)
        yield Way("quickstart", "sample", "bf16", 8, channels_last=True)
        yield Way("quickstart", "train", "fp32", 8, compiled="blocks", checkpointing=True)
        return
    train, sample = Way("cifar10", "train", "bf16", 128), Way("cifar10", "sample", "bf16", 500)
    small, large = Way("cifar10-small", "train", "bf16", 32), Way("imagenet64", "train", "bf16", 64)
    best = {"compiled": "blocks", "channels_last": True}
    yield from (train, changed(train, compiled="blocks"), changed(train, **best))
    yield from (sample, changed(sample, graph=True), changed(sample, compiled="blocks"), changed(sample, **best),
                changed(sample, graph=True, **best))
    yield from (small, changed(small, **best), large, changed(large, checkpointing=True), changed(large, **best))
    for precision in ("fp32", "tf32", "fp16"):
        yield changed(train, precision=precision)
        yield changed(sample, precision=precision)
    yield from (changed(train, repeating=False), changed(train, batch_size=512), changed(sample, batch_size=2000),
                changed(train, channels_last=True), changed(sample, channels_last=True))
    of_small, of_large = changed(small, work="sample", batch_size=500), changed(large, work="sample", batch_size=250)
    yield from (of_small, changed(of_small, graph=True), changed(of_small, batch_size=50),
                changed(of_small, batch_size=50, graph=True), changed(small, precision="fp16"), changed(small, batch_size=256))
    yield from (of_large, changed(of_large, **best), changed(train, repeating=False, **best), changed(train, compiled="whole"))


def changed(way: Way, **changes) -> Way:
    return Way(**{**asdict(way), **changes})


def prepared(network: nn.Module, way: Way) -> nn.Module:
    if way.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if way.compiled:
        compile_in_place(network, BLOCKS if way.compiled == "blocks" else "default", recorded=way.graph)
    return network


def work_of(way: Way, specs: dict[str, Spec], group: Group) -> Work:
    """Return the step of `way`. Its first call is slow."""
    spec = for_one_rank(specs[way.spec])
    torch.compiler.reset()
    variant = Variant(work=way.work, precision=way.precision, batch_size=way.batch_size, cuda_graph=way.graph,
                      gradient_checkpointing=way.checkpointing)
    if way.work == "sample":
        network = prepared(model_of(spec).network(spec).to(group.device).eval(), way)
        return sampling_work(spec, network, variant, group.device)
    training._part = lambda network, *rest: MAKE_PART(prepared(network, way), *rest)
    state = new_state(spec, group)
    return training_work(state, variant, random_images(spec, max(1024, 2 * way.batch_size)))


def measured(way: Way, specs: dict[str, Spec], group: Group, peak: float, then: Callable[[Work], None] | None = None) -> Row:
    gc.collect()
    torch.cuda.empty_cache()
    row, device = Row(way), group.device
    try:
        with repeating(way.repeating, device):
            began = time.perf_counter()
            work = work_of(way, specs, group)
            work()
            synchronize(device)
            row.first_s = time.perf_counter() - began
            if not ON_CPU:
                torch.cuda.reset_peak_memory_stats(device)
            once = seconds_of(work, WARM_UP, device) / WARM_UP
            steps = max(1, round(SLICE_S / once))
            slices = [seconds_of(work, steps, device) / steps for _ in range(SLICES)]
            row.gib = 0.0 if ON_CPU else torch.cuda.max_memory_allocated(device) / 2 ** 30
            row.ms = 1e3 * statistics.median(slices)
            row.spread = (max(slices) - min(slices)) / statistics.median(slices)
            row.per_second = way.batch_size / statistics.median(slices)
            flops = run_cost(specs[way.spec]).forward_flops * (3 if way.work == "train" else 1)
            row.share = row.per_second * flops / peak
            if then:
                then(work)
    except torch.OutOfMemoryError:
        row.problem = "does not fit into the GPU's memory"
    except Exception as error:  # a compiler can raise any exception; the others are measured all the same
        row.problem = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]
    return row


def print_profile(title: str, work: Work, steps: int, device: torch.device, found: dict) -> None:
    """Print the kernels that take the most time, and how long the GPU is busy."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiler:
        synchronize(device)
        began = time.perf_counter()
        for _ in range(steps):
            work()
        synchronize(device)
        wall = time.perf_counter() - began
    kernels: dict[str, tuple[float, int]] = {}
    for event in profiler.events():
        if (event.device_type == torch.autograd.DeviceType.CUDA) != ON_CPU and not event.name.startswith(ANNOTATIONS):
            spent, count = kernels.get(event.name, (0.0, 0))
            took = event.self_cpu_time_total if ON_CPU else event.device_time_total
            kernels[event.name] = spent + took / 1e3 / steps, count + 1
    busy = sum(spent for spent, _ in kernels.values())
    print(f"\n{title}: {busy:.2f} ms of kernels in a step of {1e3 * wall / steps:.2f} ms (profiled), "
          f"{sum(count for _, count in kernels.values()) / steps:.0f} kernels", flush=True)
    shares: dict[str, float] = {}
    for name, (spent, _) in kernels.items():
        kind = next((kind for kind, pattern in CATEGORIES if re.search(pattern, name)), "other")
        shares[kind] = shares.get(kind, 0.0) + spent
    shares = dict(sorted(shares.items(), key=lambda item: -item[1]))
    print("  " + ", ".join(f"{kind} {spent:.2f} ms ({spent / busy:.0%})" for kind, spent in shares.items()))
    top = sorted(kernels.items(), key=lambda item: -item[1][0])[:12]
    for name, (spent, count) in top:
        print(f"  {spent:7.2f} ms {spent / busy:5.1%} {count / steps:6.0f}x  {name[:100]}", flush=True)
    found[title] = {"busy_ms": busy, "wall_ms": 1e3 * wall / steps, "by_kind_ms": shares,
                    "kernels": [[name, *rest] for name, rest in top]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--json", type=Path, default=Path("gpu-bench.json"))
    asked = parser.parse_args()
    end = time.monotonic() + asked.seconds
    if not (ON_CPU or torch.cuda.is_available()):
        print("tests/gpu/bench.py needs a GPU that CUDA shows", file=sys.stderr)
        return 2
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    specs = {name: load(ROOT / "configs" / f"{name}.yaml").runs[0].spec for name in SPECS}
    rows, left_out, profiles = [], [], {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        group = stack.enter_context(process_group(folder / "meeting", threads=1))
        print(f"{group.device_name}, torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
        peaks = measure_peaks(group.device, PRECISIONS, Repeats(rounds=3, slice_s=0.1))
        for kind, rates in peaks.items():
            print(f"peak {kind}: " + ", ".join(f"{name} {rate / 1e12:.1f} TFLOP/s" for name, rate in rates.items()), flush=True)
        for number, way in enumerate(ways()):
            if time.monotonic() > end - (60 if way.compiled else 5):
                left_out.append(way)
                continue
            peak = max(of_kind[way.precision] for of_kind in peaks.values())
            wanted = number in PROFILED
            row = measured(way, specs, group, peak, (lambda work, way=way: print_profile(
                f"{way.spec} {way.work} {way.precision} {way.options}", work, 3, group.device, profiles)) if wanted else None)
            rows.append(row)
            print(row, flush=True)
    print("\nspec           work   precision batch  step (median, spread), images/s, share of peak, memory, first step, options")
    for row in rows:
        print(row)
    for way in left_out:
        print(f"left out for lack of time: {way.spec} {way.work} {way.precision} {way.batch_size} {way.options}")
    asked.json.write_text(json.dumps({"device": group.device_name, "torch": torch.__version__, "peaks": peaks,
                                      "rows": [asdict(row) for row in rows], "profiles": profiles}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
