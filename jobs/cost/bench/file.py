"""The file that `iddpm bench` writes about a machine, for `iddpm plan` and for people. No torch."""

import math
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from statistics import quantiles
from typing import Literal

from pydantic import ValidationError

from jobs.cost.count import run_cost
from jobs.errors import UserError
from jobs.spec.fields import Section
from jobs.spec.kinds import kind_of
from jobs.spec.precisions import Precision
from jobs.spec.sections import Spec, Train, ranks_to_use
from jobs.storage.files import read_bytes, sha256_of_json

Checkpointing = bool | tuple[int, ...]
"""Everywhere, nowhere, or at these resolutions, from the highest down."""
PeakKind = Literal["gemm", "convolution"]
OPERATIONS = ("convolution", "GEMM", "attention", "normalisation and elementwise", "optimiser and EMA", "other")
PAYS = 0.95  # of the best sampling rate
HOW = "`iddpm bench SPEC`, on the machine that is to do the work, makes one"


class Quartiles(Section):
    """Of repeated measurements."""

    q25: float
    median: float
    q75: float


class Variant(Section):
    """One way to do a step."""

    work: Literal["train", "sample"]
    precision: Precision
    gradient_checkpointing: Checkpointing = False
    compiled: bool = False
    """By torch.compile."""
    cuda_graph: bool = False
    """The whole reverse step is recorded and replayed."""
    deterministic: bool = True
    """On a GPU: only by kernels that repeat to the bit; false: by the fastest."""
    batch_size: int
    """Images that one rank has in the network at once."""


class Rate(Variant):
    """How fast one rank does a variant's step."""

    threads: int
    per_second: Quartiles | None = None
    """Images trained on, or image-steps of the reverse chain, by one rank; null where there is a `problem`."""
    share_of_peak: float | None = None
    """Operations per second (recomputed operations not counted) divided by the better peak of this precision."""
    memory_bytes: int | None = None
    memory_is: Literal["measured", "counted"] | None = None
    """On a GPU the largest allocation is measured. On a CPU `jobs.cost.count` counts the memory, of training only."""
    problem: str = ""
    """Why there is no rate."""


class Scaling(Section):
    """Training by `ranks` processes, each with the batch that one process has alone."""

    ranks: int
    threads: int
    efficiency: Quartiles | None = None
    """Throughput divided by `ranks` times the throughput of one rank; null where there is a `problem`."""
    problem: str = ""


class Network(Section):
    """The measured network. Operations are those of one image."""

    fingerprint: str
    parameters: int
    forward_flops: int
    """Counted by jobs.cost.count."""
    training_flops: int
    """Counted by jobs.cost.count."""
    forward_flops_by_torch: int
    """Counted by torch.utils.flop_counter."""
    training_flops_by_torch: int


class SpecSettings(Section):
    """The settings of the measured spec."""

    precision: Precision
    gradient_checkpointing: Checkpointing
    train_batch_size: int
    """Images that one rank has in the network at once while it trains."""
    sample_batch_size: int
    sample_precision: Precision = "fp32"
    draws_samples: bool = True
    """False: what is called sampling here is the network's forward pass in the stage evaluate."""


class Bench(Section):
    made: str
    host: str
    processor: str
    device: str
    """"cpu" or the GPU's name."""
    gpus: int
    cores: int
    torch: str
    quick: bool
    spec: str
    asked: SpecSettings
    network: Network
    peaks: dict[PeakKind, dict[Precision, float]]
    """Operations per second."""
    rates: list[Rate]
    split: dict[str, float]
    """Shares of the time of one training step with the spec's settings, by entry of OPERATIONS; they sum to 1."""
    scaling: list[Scaling]


def network_fingerprint(spec: Spec) -> str:
    """A digest of everything in `spec` that makes a step of the networks fast or slow, except the batch and the machine."""
    layers = {name: [astuple(layer) for layer in layers] for name, layers in kind_of(spec).layers(spec).items()}
    return sha256_of_json({"kind": spec.kind, "layers": layers})[:16]


def network_of(spec: Spec, forward_by_torch: int, training_by_torch: int) -> Network:
    """The network of `spec`; operations of one image as torch counted them."""
    cost = run_cost(spec)
    return Network(fingerprint=network_fingerprint(spec), parameters=cost.parameters, forward_flops=cost.forward_flops,
                   training_flops=cost.training_step_flops // spec.train.batch_size - cost.recomputed_flops,
                   forward_flops_by_torch=forward_by_torch, training_flops_by_torch=training_by_torch)


def batch_in_network(spec: Spec) -> int:
    """Images that a rank has in the network at once while it trains."""
    return spec.train.microbatch or spec.train.batch_size // (ranks_to_use(spec.train, spec.resources.train.world_size) or 1)


def checkpointing(train: Train) -> Checkpointing:
    """train.gradient_checkpointing; resolutions as a descending tuple."""
    where = train.gradient_checkpointing
    return where if isinstance(where, bool) else tuple(sorted(where, reverse=True))


def batch_that_pays(bench: Bench, precision: str) -> int:
    """The smallest measured sampling batch whose rate is at least PAYS times the best; without rates, the spec's batch."""
    rates = {rate.batch_size: rate.per_second.median for rate in bench.rates
             if (rate.work, rate.precision, rate.compiled, rate.cuda_graph, rate.deterministic)
             == ("sample", precision, False, False, True) and rate.per_second}
    if not rates:
        return bench.asked.sample_batch_size
    return min(batch_size for batch_size, rate in rates.items() if rate >= PAYS * max(rates.values()))


def quartiles_of(values: Sequence[float]) -> Quartiles:
    """Quartiles of at least two finite values."""
    q25, median, q75 = quantiles(values, n=4, method="inclusive")
    return Quartiles(q25=q25, median=median, q75=q75)


def bench_to_plan_by(named: str | None) -> Path | None:
    """The bench file that a cluster profile names, else the newest bench-*.json in this folder, if there is one."""
    if named:
        return Path(named)
    found = [file for file in Path().glob("bench-*.json") if file.is_file()]
    return max(found, key=lambda file: file.stat().st_mtime, default=None)


def read_bench(path: Path) -> Bench:
    """Raises UserError where `path` is not a file that `iddpm bench` wrote."""
    try:
        found = Bench.model_validate_json(read_bytes(path))
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror}); {HOW}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: not a file of this version's `iddpm bench`: "
                        f"{f'{where}: ' if where else ''}{first['msg']}") from error
    measured = [rate.per_second for rate in found.rates if rate.per_second]
    if not all(0 < rate.q25 <= rate.median <= rate.q75 for rate in measured):
        raise UserError(f"{path}: rates.per_second: quartiles must be above 0 and in order")
    return found


def with_nearest_batch(batch_size: int, rates: Sequence[Rate]) -> Rate:
    """The rate at the batch size that is nearest by ratio; of two equally near ones, the smaller batch."""
    return min(rates, key=lambda rate: (abs(math.log(rate.batch_size / batch_size)), rate.batch_size))
