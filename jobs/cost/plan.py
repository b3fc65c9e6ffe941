"""How long a run will take, from the rates that `iddpm bench` measured: arithmetic on a spec alone, without torch.

Times are those of the work. A job's start comes on top, see START_S. Time for saving and for features of images is left out.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from jobs.cost.bench.file import Bench, batch_in_network
from jobs.cost.guided import NO_OTHERS, evaluations_worth
from jobs.cost.rates import NOTHING, Band, seconds_per_image, slowdown
from jobs.spec.kinds import OwnNumber, draws_samples, kind_of, stages_of
from jobs.spec.precisions import Precision
from jobs.spec.sampling_names import in_words
from jobs.spec.samplings import Sampling, by_weights, differing, samplings, with_sampling
from jobs.spec.sections import Spec, ranks_to_use

START_S = 60.0  # allowed in each job for loading torch, meeting the other ranks and reading the data
LIKELIHOOD_PRECISION: Precision = "fp32"  # jobs/kinds/diffusion/likelihood.py uses no autocast


@dataclass(frozen=True)
class StagePlan:
    stage: str
    ranks: int
    seconds: Band
    """From the first step to the last, over all jobs."""
    usable_s: float
    """Seconds of one job before the signal to save."""
    jobs: tuple[int, int, int] | None
    """Number of jobs one after another, for each of `seconds`. None: the stage never ends, because `piece` fits into no job."""
    piece: Band | None = None
    """The longest chunk of sampling, or the longest chain of bits/dim."""
    pieces: int = 0
    ranks_for_one_job: int | None = None
    """Of sampling and bits/dim: the smallest number of ranks that end within one job; None where no number does."""
    assumed: tuple[str, ...] = ()
    """One sentence for each setting that was not measured as the spec has it."""


@dataclass(frozen=True)
class SamplingPlan:
    """One sampling of a run."""

    name: str
    """The step, and what differs from the main sampling."""
    evaluations: int
    """Of the network, for one sample."""
    seconds: Band
    """With the ranks of the stage for this sampling alone."""


def plan_run(spec: Spec, bench: Bench, usable_s: Mapping[str, float],
             others: Mapping[str, Spec] = NO_OTHERS) -> dict[str, StagePlan]:
    """Plans by stage. `usable_s`: by stage, the seconds of work in one job.

    Raises UserError where `bench` has no rate for the settings of `spec`.
    """
    return {stage: plan_sample(spec, bench, usable_s[stage], others) if stage == "sample" else
            _STAGES[stage](spec, bench, usable_s[stage]) for stage in stages_of(spec)}


def plan_train(spec: Spec, bench: Bench, usable_s: float) -> StagePlan:
    """All ranks take each step together, so a step is as slow as `slowdown` says."""
    train, ranks = spec.train, ranks_to_use(spec.train, spec.resources.train.world_size)
    image, assumed = seconds_per_image(spec, bench, "train", train.precision, batch_in_network(spec))
    slower, more = slowdown(bench, ranks)
    images = train.iterations * (train.batch_size // ranks)
    seconds = Band(image.low * slower.low, image.median * slower.median, image.high * slower.high) * images
    return StagePlan("train", ranks, seconds, usable_s, jobs_for(seconds, usable_s), assumed=(*assumed, *more))


def plan_sample(spec: Spec, bench: Bench, usable_s: float, others: Mapping[str, Spec] = NO_OTHERS) -> StagePlan:
    """Ranks take chunk after chunk; a chunk that is interrupted is resumed in the middle."""
    ranks, sample = spec.resources.sample.world_size, spec.sample
    step, assumed = seconds_per_image(spec, bench, "sample", sample.precision, min(sample.batch_size, sample.num_samples))
    work = chunk_steps(spec, bench, others)
    seconds = step * longest_queue(work, ranks)
    least = fewest_ranks(lambda number: step.median * longest_queue(work, number) <= usable_s, len(work))
    return StagePlan("sample", ranks, seconds, usable_s, jobs_for(seconds, usable_s), step * max(work), len(work), least,
                     tuple(assumed))


def plan_samplings(spec: Spec, bench: Bench, others: Mapping[str, Spec] = NO_OTHERS) -> list[SamplingPlan]:
    """Plan each sampling of a run, in the order of evaluation.json. Raises UserError as `plan_run` does."""
    if not draws_samples(spec):
        return []
    sample, ranks = spec.sample, spec.resources.sample.world_size
    step, _ = seconds_per_image(spec, bench, "sample", sample.precision, min(sample.batch_size, sample.num_samples))
    found, last = [], spec.train.iterations
    for sampling in samplings(spec):
        words = [in_words(differing(spec, sampling)) or "main settings",
                 *([f"step {sampling.step:,}"] if sampling.step != last else [])]
        found.append(SamplingPlan(", ".join(words), kind_of(spec).evaluations(with_sampling(spec, sampling)),
                                  step * longest_queue(chunks_of(spec, sampling, bench, others), ranks)))
    return found


def plan_evaluate(spec: Spec, bench: Bench, usable_s: float) -> StagePlan:
    """Plan the numbers that the kind computes itself, such as bits/dim. An interrupted number starts again in the next job."""
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
    """Seconds of a step as progress.json counts steps: of an update, and of one step of a chunk. Evaluation has no such plan."""
    train = {"train": planned["train"].seconds.median / spec.train.iterations}
    if "sample" not in planned:
        return train
    lengths = [kind_of(spec).steps(with_sampling(spec, sampling)) for sampling in samplings(spec)]
    chunk_steps = planned["sample"].pieces * sum(lengths) / len(lengths)
    return train | {"sample": planned["sample"].seconds.median / chunk_steps}


_STAGES = {"train": plan_train, "evaluate": plan_evaluate}


# The work to do

def chunk_steps(spec: Spec, bench: Bench, others: Mapping[str, Spec] = NO_OTHERS) -> list[float]:
    """Image-steps of every chunk of every sampling, in the order in which ranks take chunks (`jobs.sampling.loop`)."""
    return [steps for sampling in by_weights(spec) for steps in chunks_of(spec, sampling, bench, others)]


def chunks_of(spec: Spec, sampling: Sampling, bench: Bench, others: Mapping[str, Spec] = NO_OTHERS) -> list[float]:
    """Image-steps of every chunk of one sampling. Where its precision is another, they count by what these steps take."""
    own, sample = with_sampling(spec, sampling), spec.sample
    sizes = [min(sample.batch_size, sample.num_samples - first) for first in range(0, sample.num_samples, sample.batch_size)]
    pace = 1.0
    if own.sample.precision != sample.precision:
        ours, main = (seconds_per_image(spec, bench, "sample", precision, sizes[0])[0].median
                      for precision in (own.sample.precision, sample.precision))
        pace = ours / main
    return [size * evaluations_worth(own, others) * pace for size in sizes]


def longest_queue(work: Sequence[float], ranks: int) -> float:
    """The sum of the pieces of the last of `ranks` to end, where a rank that is free takes the next piece of `work`."""
    if ranks >= len(work):
        return max(work)
    busy_until = [0.0] * ranks
    for piece in work:
        heapq.heapreplace(busy_until, busy_until[0] + piece)
    return max(busy_until)


def examples_of_first_rank(number: OwnNumber, ranks: int) -> int:
    """Return the examples of the rank that has the most: batches are dealt out in turn."""
    return sum(min(number.batch_size, number.examples - batch * number.batch_size) for batch in number.batches(0, ranks))


def fewest_ranks(enough: Callable[[int], bool], most: int) -> int | None:
    """The smallest number of ranks up to `most` that is `enough`; None where `most` ranks are too few. More are never worse."""
    if not enough(most):
        return None
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def jobs_for(seconds: Band, usable_s: float) -> tuple[int, int, int]:
    """Number of jobs of `usable_s` seconds each, for the low, median and high end of `seconds`."""
    low, median, high = (max(1, ceil(value / usable_s)) for value in (seconds.low, seconds.median, seconds.high))
    return low, median, high
