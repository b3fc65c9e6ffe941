"""How long a run will take, from what `iddpm bench` measured: arithmetic on a spec alone, without torch.

Times are of work: a job's start comes on top, see START_S. Saving, and reading features of images, are not in them.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from jobs.cost.bench.file import Bench, Rate, Variant, batch_in_network, checkpointing, fingerprint, nearest
from jobs.cost.count import run_cost
from jobs.errors import UserError
from jobs.quantities import amount
from jobs.spec.kinds import Number, kind_of
from jobs.spec.samplings import samplings, with_sampling
from jobs.spec.sections import Spec

START_S = 60.0  # allowed in each job for loading torch, meeting the other ranks and reading the data
LIKELIHOOD_PRECISION = "fp32"  # jobs.evaluation.likelihood uses no autocast


@dataclass(frozen=True)
class Band:
    """A median, and where the bench's quartiles put it; seconds unless said otherwise."""

    low: float
    median: float
    high: float

    def __mul__(self, factor: float) -> "Band":
        return Band(factor * self.low, factor * self.median, factor * self.high)

    def __add__(self, other: "Band") -> "Band":
        return Band(self.low + other.low, self.median + other.median, self.high + other.high)


NOTHING = Band(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class StagePlan:
    stage: str
    ranks: int
    seconds: Band
    """From the first step to the last, over all jobs."""
    usable_s: float
    """Of one job, before it is told to save."""
    jobs: tuple[int, int, int] | None
    """How many one after another, for each of `seconds`. None: no number of them ends it, see `piece`."""
    piece: Band | None = None
    """The longest chunk of sampling, or the longest chain of bits/dim."""
    pieces: int = 0
    ranks_for_one_job: int | None = None
    """Of sampling and bits/dim: the fewest that are done within one job; None where no number is."""
    assumed: tuple[str, ...] = field(default=())
    """What was not measured as the spec has it."""


def planned_seconds(spec: Spec, bench: Bench) -> dict[str, Band]:
    """Seconds of work by stage. Raises UserError where `bench` has no rate for the settings of `spec`."""
    return {stage: found.seconds for stage, found in plan_run(spec, bench, dict.fromkeys(_STAGES, float("inf"))).items()}


def plan_run(spec: Spec, bench: Bench, usable_s: Mapping[str, float]) -> dict[str, StagePlan]:
    """By stage; `usable_s`: seconds of work in one job of it. Raises UserError as `planned_seconds` does."""
    return {stage: plan(spec, bench, usable_s[stage]) for stage, plan in _STAGES.items()}


def plan_train(spec: Spec, bench: Bench, usable_s: float) -> StagePlan:
    train, ranks = spec.train, spec.resources.train.world_size
    image, assumed = seconds_per_image(spec, bench, "train", train.precision, batch_in_network(spec))
    slower, more = slowdown(bench, ranks)
    images = train.iterations * (train.batch_size // ranks)
    seconds = Band(image.low * slower.low, image.median * slower.median, image.high * slower.high) * images
    return StagePlan("train", ranks, seconds, usable_s, jobs_for(seconds, usable_s), assumed=(*assumed, *more))


def plan_sample(spec: Spec, bench: Bench, usable_s: float) -> StagePlan:
    """Ranks take chunk after chunk; one that is told to save goes on in the middle of it later."""
    ranks, sample = spec.resources.sample.world_size, spec.sample
    step, assumed = seconds_per_image(spec, bench, "sample", sample.precision, min(sample.batch_size, sample.num_samples))
    work = chunk_steps(spec)
    seconds = step * longest_queue(work, ranks)
    least = fewest_ranks(lambda number: step.median * longest_queue(work, number) <= usable_s, len(work))
    return StagePlan("sample", ranks, seconds, usable_s, jobs_for(seconds, usable_s), step * max(work), len(work), least,
                     tuple(assumed))


def plan_evaluate(spec: Spec, bench: Bench, usable_s: float) -> StagePlan:
    """Plan the numbers that the kind computes itself (bits/dim). A number that a job's end interrupts starts again in the next."""
    ranks, numbers = spec.resources.evaluate.world_size, kind_of(spec).numbers(spec)
    if not numbers:
        return StagePlan("evaluate", ranks, NOTHING, usable_s, (1, 1, 1), ranks_for_one_job=1)
    step, assumed = seconds_per_image(spec, bench, "evaluate", LIKELIHOOD_PRECISION,
                                      max(min(number.batch_size, number.examples) for number in numbers))

    def passes_with(count: int) -> list[int]:
        return [number.passes * examples_of_first_rank(number, count) for number in numbers]

    seconds, piece = step * sum(passes_with(ranks)), step * max(passes_with(ranks))
    least = fewest_ranks(lambda count: step.median * sum(passes_with(count)) <= usable_s,
                         max(len(number.batches(0, 1)) for number in numbers))
    jobs = jobs_for(seconds, usable_s) if piece.high <= usable_s else None
    return StagePlan("evaluate", ranks, seconds, usable_s, jobs, piece, len(numbers), least, tuple(assumed))


def seconds_per_step(spec: Spec, planned: Mapping[str, StagePlan]) -> dict[str, float]:
    """By stage, of the steps that progress.json counts: updates, and steps of chunks; other things count in evaluations."""
    train = {"train": planned["train"].seconds.median / spec.train.iterations}
    lengths = [kind_of(spec).steps(with_sampling(spec, sampling)) for sampling in samplings(spec)]
    chunk_steps = planned["sample"].pieces * sum(lengths) / len(lengths)
    return train | {"sample": planned["sample"].seconds.median / chunk_steps}


_STAGES = {"train": plan_train, "sample": plan_sample, "evaluate": plan_evaluate}


# What was measured

def seconds_per_image(spec: Spec, bench: Bench, stage: str, precision: str, batch_size: int) -> tuple[Band, list[str]]:
    """Of one image's step of `stage` on one rank that has `batch_size` of them at once; and what is assumed.

    A step of bits/dim is taken for one of sampling: both are one forward pass and some arithmetic on images.
    Raises UserError where `bench` is of another kind of device, or has no such rate.
    """
    resources, training = getattr(spec.resources, stage), stage == "train"
    if (bench.device != "cpu") != (resources.gpus_per_node > 0):
        device = "its CPU" if bench.device == "cpu" else f"a GPU, {bench.device}"
        raise UserError(f"resources.{stage}.gpus_per_node: {resources.gpus_per_node}, but the bench of {bench.host} is of "
                        f"{device}: the one says nothing of the other; measure on a machine such as will do the work, or "
                        "change that setting")
    wanted = Variant(work="train" if training else "sample", precision=precision, batch_size=batch_size,
                     gradient_checkpointing=training and checkpointing(spec.train),
                     compiled=bool({"train": spec.train.compile, "sample": spec.sample.compile}.get(stage)),
                     cuda_graph=stage == "sample" and spec.sample.cuda_graph and bench.device != "cpu")
    rate, assumed = measured_rate(bench, wanted)
    if bench.device == "cpu" and rate.threads != resources.threads:
        assumed.append(f"measured with {rate.threads} thread{'s' if rate.threads > 1 else ''}, the spec has "
                       f"{resources.threads}; taken as equally fast")
    if bench.device == "cpu" and not training and resources.world_size > 1:
        assumed.append("ranks do not slow each other down: they share the memory's bandwidth, which was not measured")
    found, factor = rate.per_second, 1.0
    if fingerprint(spec) != bench.network.fingerprint:
        flops = run_cost(spec).forward_flops
        factor = flops / bench.network.forward_flops
        assumed.append("measured on another network: scaled by FLOP of a forward pass, "
                       f"{amount(bench.network.forward_flops)}FLOP to {amount(flops)}FLOP")
    return Band(1 / found.q75, 1 / found.median, 1 / found.q25) * factor, assumed


def measured_rate(bench: Bench, wanted: Variant) -> tuple[Rate, list[str]]:
    """The rate of such steps at the batch size that is nearest to the wanted one; and what is assumed."""
    def like(variant: Variant) -> tuple:
        return variant.work, variant.precision, variant.gradient_checkpointing, variant.compiled, variant.cuda_graph
    of_settings = [rate for rate in bench.rates if like(rate) == like(wanted)]
    usable, batch_size = [rate for rate in of_settings if rate.per_second], wanted.batch_size
    if wanted.compiled and not usable:
        rate, assumed = measured_rate(bench, wanted.model_copy(update={"compiled": False}))
        return rate, [*assumed, "measured without torch.compile (`iddpm bench --compile` measures it), taken as no faster with it"]
    if wanted.cuda_graph and not usable:
        rate, assumed = measured_rate(bench, wanted.model_copy(update={"cuda_graph": False}))
        return rate, [*assumed, "measured without cuda_graph, taken as no faster with it"]
    words = f"{wanted.work} in {wanted.precision}"
    if wanted.work == "train":
        where = wanted.gradient_checkpointing
        words += f" with gradient_checkpointing: {str(where).lower() if isinstance(where, bool) else list(where)}"
    if not usable:
        why = f" ({of_settings[0].problem})" if of_settings else ""
        raise UserError(f"the bench of {bench.host} ({bench.device}) has no rate for {words}{why}; measure this spec: "
                        "`iddpm bench SPEC`, or change those settings")
    rate = nearest(batch_size, usable)
    failed = [other.problem for other in of_settings if other.batch_size == batch_size and other.problem]
    reason = f" ({failed[0]})" if failed else ""
    if rate.batch_size == batch_size:
        return rate, []
    return rate, [f"measured with {rate.batch_size} images at once, not {batch_size}{reason}"]


def slowdown(bench: Bench, ranks: int) -> tuple[Band, list[str]]:
    """How much longer a step takes where `ranks` train together; and what is assumed."""
    measured = [scaling for scaling in bench.scaling if scaling.efficiency]
    if ranks == 1:
        return Band(1.0, 1.0, 1.0), []
    if not measured:
        return Band(1.0, 1.0, 1.0), [f"scaling was not measured: {ranks} ranks taken as {ranks} times as fast as one"]
    scaling = min(measured, key=lambda scaling: abs(scaling.ranks - ranks))
    found = scaling.efficiency
    assumed = [] if scaling.ranks == ranks else [f"scaling measured over {scaling.ranks} ranks, taken to hold for {ranks}"]
    return Band(1 / found.q75, 1 / found.median, 1 / found.q25), assumed


# What there is to do

def chunk_steps(spec: Spec) -> list[int]:
    """Image-steps of every chunk of every sampling, in the order in which `jobs.sampling.loop` hands them out."""
    sample = spec.sample
    sizes = [min(sample.batch_size, sample.num_samples - first) for first in range(0, sample.num_samples, sample.batch_size)]
    return [size * kind_of(spec).evaluations(with_sampling(spec, sampling))
            for sampling in sorted(samplings(spec), key=lambda sampling: -sampling.step) for size in sizes]


def longest_queue(work: Sequence[int], ranks: int) -> int:
    """What the last of `ranks` to end has done, where whoever is free takes the next of `work`."""
    if ranks >= len(work):
        return max(work)
    busy_until = [0] * ranks
    for piece in work:
        heapq.heapreplace(busy_until, busy_until[0] + piece)
    return max(busy_until)


def examples_of_first_rank(number: Number, ranks: int) -> int:
    """Return the examples of the rank that has the most: batches are dealt out in turn."""
    return sum(min(number.batch_size, number.examples - batch * number.batch_size) for batch in number.batches(0, ranks))



def fewest_ranks(enough, most: int) -> int | None:
    """The smallest number up to `most` that is `enough`; more never are worse. None where `most` is not."""
    if not enough(most):
        return None
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def jobs_for(seconds: Band, usable_s: float) -> tuple[int, int, int]:
    return tuple(max(1, ceil(value / usable_s)) for value in (seconds.low, seconds.median, seconds.high))
