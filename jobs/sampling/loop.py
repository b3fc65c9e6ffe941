"""The sampling stage: free ranks take the next chunk of samples; each chunk is a pure function of its number.

A run has one or more samplings (`jobs.spec.samplings`); the chunks of all samplings are one queue of work.
"""

import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import nn

from jobs.data.pictures import as_images
from jobs.errors import UserError
from jobs.kinds.protocol import Begun, Generated, giving_model, model_of
from jobs.parallel.agreement import TELL_EVERY, asked_to_stop
from jobs.parallel.compiling import check_compiler, compile_in_place
from jobs.parallel.group import Group, any_rank, on_main
from jobs.parallel.interruption import Interruption
from jobs.parallel.life import meet, step_done
from jobs.parallel.precision import computing_in
from jobs.randomness import generator_for, randn_from
from jobs.run.directory import RunDir
from jobs.run.given import GivenImages, open_given
from jobs.run.progress import Progress
from jobs.sampling.chunks import Chunk, chunk_file, chunk_indices, sample_labels, write_chunk
from jobs.sampling.finite_steps import finite_steps, state_after
from jobs.sampling.gather import gather
from jobs.sampling.partial import Partial, partial_file, partial_identity, read_partial, save_partial
from jobs.sampling.survey import Remaining, survey
from jobs.sampling.times import ChunkTimes
from jobs.sampling.weights import guide_of, load_guide, load_sampled
from jobs.spec.kinds import Guide, kind_of
from jobs.spec.samplings import by_weights, weights_of, with_sampling
from jobs.spec.sections import Spec

SAVE_EVERY_S = 300.0
"""Seconds between two saves of a chunk half-way: the most work that a kill -9 can cost."""


def sample(run: RunDir, group: Group, interruption: Interruption) -> str:
    """Compute the missing chunks, then gather all chunks. Return "done" or "interrupted".

    Raises UserError where training is not finished, the checkpoint of a sampling is missing, or a folder holds samples of
    other weights or settings.
    """
    progress, state = Progress(run.progress if group.is_main else None, "sample"), "failed"
    try:
        progress.prepare("building the network")
        network = model_of(run.spec).network(run.spec).to(group.device).eval()
        compile_sampler(run.spec, network, group)
        progress.prepare("looking for finished chunks")
        remaining = on_main(lambda: survey(run, network, group.device_name))
        times = ChunkTimes(run, group)
        compute_chunks(run, network, group, remaining, interruption, progress, times)
        # The main rank may be without a chunk for hours. It hears of a request to stop meanwhile, and passes it on.
        meet(lambda: asked_to_stop(group, interruption))
        if group.is_main:
            times.write()
        stopped = any_rank(asked_to_stop(group, interruption))
        if not stopped and group.is_main:
            progress.prepare("gathering the samples")
            for todo in remaining:
                gather(run, todo.settings, todo.sampling)
        state = "interrupted" if stopped else "done"
    finally:
        progress.close(progress.total if state == "done" else None, state)
    return state


def compute_chunks(run: RunDir, network: nn.Module, group: Group, remaining: list[Remaining], interruption: Interruption,
                   progress: Progress, times: ChunkTimes) -> None:
    """Take the next chunk, and compute it, until none is left or the stage is asked to stop."""
    # Samplings of the same weights one after another, so that weights are loaded as seldom as possible.
    left = {todo.sampling: todo for todo in remaining}
    work = [(left[sampling], chunk) for sampling in by_weights(run.spec) for chunk in left[sampling].missing]
    progress.start(sum(todo.missing[chunk] for todo, chunk in work),
                   doing="compiling" if run.spec.sample.compile else "first steps")
    progress.follow(lambda: group.store.add("steps_done", 0))
    loaded, guide, given = None, GuideInUse(run, group), open_given(run)
    # All ranks share this counter: a free rank takes the next chunk, and a slow rank delays no other.
    while (turn := group.store.add("chunks_taken", 1) - 1) < len(work):
        if asked_to_stop(group, interruption):
            break
        todo, chunk = work[turn]
        weights = weights_of(run.spec, todo.sampling)
        if weights != loaded:
            loaded = weights
            if load_sampled(run, network, todo.sampling) != todo.settings["weights_sha256"]:
                raise UserError(f"{run.checkpoints}: the weights of step {todo.sampling.step} changed while sampling from them")
        with computing_in(with_sampling(run.spec, todo.sampling).sample.precision, group.device):
            compute_chunk(run, network, group, todo, chunk, interruption, times, guide.of(todo), given)


class GuideInUse:
    """The network that guides the chunks at hand, on the device. There is one at a time."""

    def __init__(self, run: RunDir, group: Group):
        self.run, self.group = run, group
        self.guide: Guide | None = None
        self.network: nn.Module | None = None

    def of(self, todo: Remaining) -> nn.Module | None:
        """Return the network that guides `todo`, None where nothing does beside its own network."""
        wanted = guide_of(self.run, todo.sampling)
        if wanted != self.guide:
            self.guide = self.network = None  # its memory is free before the next one needs some
            if wanted:
                loaded = load_guide(self.run, wanted)
                if loaded.facts != todo.settings["guide"]:
                    raise UserError(f"{self.run.path}: the weights of its guide ({wanted.run or 'the run itself'}) changed while "
                                    "sampling with them")
                self.guide, self.network = wanted, loaded.network.to(self.group.device)
                compile_sampler(self.run.spec, self.network, self.group)
        return self.network


def compile_sampler(spec: Spec, network: nn.Module, group: Group) -> None:
    """Compile a network for sampling, where sample.compile asks for it. Raises UserError where the machine has no compiler."""
    if spec.sample.compile:
        check_compiler("sample.compile", group.device)
        compile_in_place(network, spec.sample.compile, kind_of(spec).records_steps(spec))


def compute_chunk(run: RunDir, network: nn.Module, group: Group, todo: Remaining, chunk: int,
                  interruption: Interruption, times: ChunkTimes, guide: nn.Module | None = None,
                  given: GivenImages | None = None) -> None:
    """Write chunk number `chunk` of a sampling; if the stage is asked to stop half-way, save the state of the chunk instead.

    Raises StageFailed that names the chunk and the step where values are not finite.
    """
    spec, folder = with_sampling(run.spec, todo.sampling), run.samples_folder(todo.sampling)
    indices = chunk_indices(spec, chunk)
    labels, images = sample_labels(spec, todo.settings, indices, given), given.rows(indices) if given else None
    # A chunk takes all its randomness from one stream, named by the seed and the chunk; never from that of the images that it is
    # made of, which may be the samples of a run with this seed.
    stream = partial(generator_for, group.device, spec.sample.seed, *(["of given"] if given else []), "sample", chunk)
    generator = stream()

    def steps_from(generator: torch.Generator, begun: Partial | None) -> Iterator[Generated]:
        return steps_of_chunk(spec, network, generator, labels, len(indices), begun, guide, images)
    file, identity = partial_file(folder, chunk), partial_identity(todo.settings, indices, group.device_name)
    begun = read_partial(file, identity)
    left = begun.left if begun else kind_of(spec).steps(spec)
    step, saved, started = None, time.monotonic(), time.monotonic()
    for step in finite_steps(f"{folder}: chunk {chunk}", steps_from, stream, generator, begun):
        if step.left % TELL_EVERY == 0:
            group.store.add("steps_done", left - step.left)
            left = step.left
            step_done()
            stop = asked_to_stop(group, interruption)
            if left and (stop or time.monotonic() - saved >= SAVE_EVERY_S):
                save_partial(file, state_after(step, generator), identity)
                saved = time.monotonic()
            if left and stop:
                return
    assert step is not None, "a kind yields at least one step"
    drawn = as_images(step.x)  # waits for the device
    if begun is None:
        times.add(todo.sampling, len(indices), time.monotonic() - started)
    write_chunk(chunk_file(folder, chunk), Chunk(drawn, np.array(indices, dtype=np.int64), labels, group.device_name),
                todo.settings)
    file.unlink(missing_ok=True)


def steps_of_chunk(spec: Spec, network: nn.Module, generator: torch.Generator, labels: np.ndarray | None, rows: int,
                   saved: Partial | None = None, guide: nn.Module | None = None,
                   given: np.ndarray | None = None) -> Iterator[Generated]:
    """Yield the steps of a chunk of `rows` samples, from the beginning or from the state `saved`, led by `guide`.

    `given`: the images that these samples are made of, uint8 [rows, H, W, C]; None: noise alone.
    """
    device, begun = generator.device, None
    if saved:
        generator.set_state(torch.from_numpy(saved.generator))
        begun = Begun(saved.left, {name: torch.from_numpy(array).to(device) for name, array in saved.state.items()})
    randn = randn_from(generator, spec.sample.batch_size)
    if given is None:
        return model_of(spec).generate(spec, network, device, randn, labels, rows, begun, guide)
    return giving_model(spec).generate_of(spec, network, device, randn, labels, given, begun, guide)
