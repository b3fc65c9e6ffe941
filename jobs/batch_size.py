"""`sample.batch_size: auto`: the smallest batch that is about as fast as any, measured once for each run.

The number is written down before the first chunk is begun, and holds from then on, on whatever device and for however many
ranks: samples are to the byte those of a spec that gives it.
"""

from collections.abc import Iterator
from statistics import median

import torch

from diffusion.gaussian import GaussianDiffusion
from diffusion.samplers import Step
from diffusion.unet import UNet
from jobs.bench_file import smallest_that_pays
from jobs.bench_timing import seconds_of
from jobs.build import build_diffusion
from jobs.checkpoints import final_checkpoint
from jobs.chunks import sample_labels
from jobs.distributed import Group, on_main
from jobs.failures import kind_of
from jobs.files import write_json
from jobs.progress import note
from jobs.randomness import generator_for
from jobs.reverse_chain import reverse_chain
from jobs.rundir import RunDir
from jobs.spec import Spec, with_chunks_of

TIMED_STEPS = 5
ENOUGH_S = 0.5  # of timing one size: long steps are timed fewer times, so that all sizes together take a few seconds
LONGEST_STEP_S = 0.5  # a larger batch than one whose step takes this long gains nothing: nobody waits for the device


def settle_batch_size(run: RunDir, network: UNet, group: Group) -> RunDir:
    """The run with a number for sample.batch_size. Where it is auto, and was not measured before, the main rank does that.

    `network` as it is without torch.compile, which would take minutes for each size. Raises UserError, and chooses nothing,
    where training is not finished.
    """
    if run.frozen.sample.batch_size != "auto":
        return run
    # By word of the main rank: on a network file system another node may not see the new file for a while.
    return RunDir.planned(run.path, with_chunks_of(run.frozen, on_main(lambda: _chosen(run, network, group))))


def _chosen(run: RunDir, network: UNet, group: Group) -> int:
    known = RunDir(run.path).spec.sample.batch_size  # `run` may have been read before it had this job's lock
    if known != "auto":
        return known
    final_checkpoint(run)  # nothing is chosen for a run that cannot be sampled yet
    most = -(-run.spec.sample.num_samples // group.world_size)  # no rank shall be without work
    rates = measured_rates(run.spec, network, group.device, most)
    batch_size = smallest_that_pays(rates)
    write_json(run.batch_size_file, {"batch_size": batch_size, "device": group.device_name, "most": most,
                                     "images_per_second": {str(size): rate for size, rate in rates.items()}})
    told = ", ".join(f"{size}: {rate:,.0f}" for size, rate in rates.items())
    note(f"sample.batch_size: auto is {batch_size} from here on (image-steps per second on {group.device_name}, by size: {told})")
    return batch_size


def measured_rates(spec: Spec, network: UNet, device: torch.device, most: int) -> dict[int, float]:
    """Reverse steps of images per second by batch size: powers of two up to `most`, as far as time and memory allow."""
    diffusion, rates, size = build_diffusion(spec, device, spec.sample.timestep_respacing), {}, 1
    while size <= most:
        try:
            seconds = seconds_per_step(with_chunks_of(spec, size), network, diffusion, size)
        except RuntimeError as error:  # torch's for memory, of which the CPU's has no class of its own
            if kind_of(error) != "out of memory" or not rates:
                raise
            break
        rates[size] = size / seconds
        if seconds > LONGEST_STEP_S:
            break
        size *= 2
    torch.cuda.empty_cache()  # of the largest size, which is seldom the chosen one
    return rates


def seconds_per_step(spec: Spec, network: UNet, diffusion: GaussianDiffusion, rows: int) -> float:
    """Median over a few reverse steps of `rows` samples, after one that is not counted: libraries choose kernels by shape."""
    def steps() -> Iterator[Step]:
        generator, labels = generator_for(diffusion.device, spec.sample.seed, "batch size"), sample_labels(spec, range(rows))
        while True:  # a chain may be shorter than what is timed
            yield from reverse_chain(spec, network, diffusion, generator, labels, rows, None)
    chain, seconds = steps(), []
    next(chain)
    while len(seconds) < TIMED_STEPS and sum(seconds) < ENOUGH_S:
        seconds.append(seconds_of(lambda: next(chain), 1, diffusion.device))
    return median(seconds)
