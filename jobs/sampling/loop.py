"""The sampling stage: chunks of samples by the ranks as they come free, each a pure function of its number.

A run has one or more points to sample at (`jobs.spec.samplings`); their chunks are one queue of work.
"""

import time
from dataclasses import dataclass

import numpy as np

from diffusion.networks.unet import UNet
from diffusion.respacing import space_timesteps
from jobs.data.pictures import as_images
from jobs.errors import UserError
from jobs.kinds.diffusion import build_diffusion, build_network
from jobs.parallel.agreement import TELL_EVERY, asked_to_stop
from jobs.parallel.compiling import check_compiler, compile_options
from jobs.parallel.group import Group, any_rank, on_main
from jobs.parallel.interruption import Interruption
from jobs.randomness import generator_for
from jobs.run.checkpoints import checkpoint_at, load_weights, sha256_of_weights, weights_name
from jobs.run.directory import RunDir
from jobs.run.progress import Progress, note
from jobs.sampling.chain import reverse_chain
from jobs.sampling.chunks import (
    Chunk,
    DamagedChunk,
    alike_chunks,
    chunk_file,
    chunk_indices,
    number_of_chunks,
    read_chunk,
    sample_labels,
    sampling_settings,
    write_chunk,
)
from jobs.sampling.gather import check_samples, gather
from jobs.sampling.partial import Partial, partial_file, partial_identity, save_partial, take_partial
from jobs.spec.samplings import Sampling, samplings, with_sampling

SAVE_EVERY_S = 300.0  # between two saves of a chunk half-way: what a kill -9 costs at most


@dataclass(frozen=True)
class Remaining:
    """What there is to do at one sampling."""

    sampling: Sampling
    settings: dict
    """What names its samples."""
    missing: dict[int, int]
    """Number of each chunk to compute: how many steps of its chain are left."""


def sample(run: RunDir, group: Group, interruption: Interruption) -> str:
    """Compute the chunks that are missing, then gather all: "done" or "interrupted".

    Raises UserError where training is not finished, the checkpoint of a sampling is gone, or a folder holds samples of other
    weights or settings.
    """
    network = build_network(run.spec).to(group.device).eval()
    if run.spec.sample.compile:
        check_compiler("sample.compile", group.device)
        network.compile(**compile_options(run.spec.sample.compile, run.spec.sample.cuda_graph))
    remaining = on_main(lambda: survey(run, network, group.device_name))
    # By checkpoint, the last one first, so that weights change as seldom as can be.
    work = [(todo, chunk) for todo in sorted(remaining, key=lambda todo: -todo.sampling.step)
            for chunk in todo.missing]
    steps = sum(todo.missing[chunk] for todo, chunk in work)
    progress = Progress(run.progress, "sample", steps, "steps") if group.is_main else None
    state, loaded = "failed", None
    try:
        # A counter that all ranks share: whoever is free takes the next, and a slow rank holds up nobody.
        while (turn := group.store.add("chunks_taken", 1) - 1) < len(work):
            if asked_to_stop(group, interruption):
                break
            todo, chunk = work[turn]
            if todo.sampling.step != loaded:
                loaded = todo.sampling.step
                if load_step(run, network, loaded) != todo.settings["weights_sha256"]:
                    raise UserError(f"{run.checkpoints}: the weights of step {loaded} changed while sampling from them")
            compute_chunk(run, network, group, todo, chunk, interruption, progress)
        stopped = any_rank(interruption.requested)
        if not stopped and group.is_main:
            for todo in remaining:
                gather(run, todo.settings, todo.sampling)
        state = "interrupted" if stopped else "done"
    finally:
        if progress:
            progress.close(progress.total if state == "done" else group.store.add("steps_done", 0), state)
    return state


def load_sampler(run: RunDir, group: Group, sampling: Sampling | None = None) -> tuple[UNet, dict]:
    """The network with the weights of `sampling` (None: the main one), in evaluation mode, and what names its samples."""
    sampling = sampling or samplings(run.spec)[0]
    network = build_network(run.spec)
    sha256 = load_step(run, network, sampling.step)
    return network.to(group.device).eval(), sampling_settings(with_sampling(run.spec, sampling), sha256)


def load_step(run: RunDir, network: UNet, step: int) -> str:
    """Copy the weights of training step `step` that the spec samples from into the network; their sha256."""
    ema_rate = run.spec.sample.ema_rate
    checkpoint = checkpoint_at(run, step)
    weights = checkpoint.weights(ema_rate)
    load_weights(network, weights, checkpoint.path / weights_name(ema_rate))
    return sha256_of_weights(weights)


def survey(run: RunDir, network: UNet, device: str) -> list[Remaining]:
    """What is missing at each sampling; `network` is for trying whether the weights fit it."""
    spec = run.spec
    sha256 = {step: load_step(run, network, step) for step in dict.fromkeys(sampling.step for sampling in samplings(spec))}
    settings = {sampling: sampling_settings(with_sampling(spec, sampling), sha256[sampling.step]) for sampling in samplings(spec)}
    missing = {sampling: missing_chunks(run, sampling, settings[sampling]) for sampling in samplings(spec)}
    return [Remaining(sampling, settings[sampling], steps_left(run, sampling, settings[sampling], missing[sampling], device))
            for sampling in samplings(spec)]


def missing_chunks(run: RunDir, sampling: Sampling, settings: dict) -> list[int]:
    """Numbers of the chunks to compute. Damaged ones are removed and count as missing; foreign ones are a UserError."""
    folder = run.samples_folder(sampling)
    if (folder / "samples.h5").exists():
        check_samples(run, settings, sampling)
        return []
    missing, files = [], alike_chunks()
    for chunk in range(number_of_chunks(run.spec)):
        file = chunk_file(folder, chunk)
        try:
            if file.exists():
                read_chunk(file, chunk_indices(run.spec, chunk), settings, files)
                continue
        except DamagedChunk as error:
            note(f"{error}; computing it again")
            file.unlink()
        except UserError as error:
            raise UserError(f"{error}. Remove {folder}, and `iddpm sample {run.path}` samples anew.") from error
        missing.append(chunk)
    return missing


def steps_left(run: RunDir, sampling: Sampling, settings: dict, missing: list[int], device: str) -> dict[int, int]:
    """How many steps each of the `missing` chunks still takes. What was saved of others is removed."""
    spec, folder = run.spec, run.samples_folder(sampling)
    steps, left = len(space_timesteps(spec.diffusion.diffusion_steps, sampling.timestep_respacing)), {}
    for chunk in missing:
        partial = take_partial(partial_file(folder, chunk), partial_identity(settings, chunk_indices(spec, chunk), device))
        left[chunk] = partial.next_step + 1 if partial else steps
    for file in set(folder.glob("partial-*.h5")) - {partial_file(folder, chunk) for chunk in missing}:
        file.unlink()  # a rank was killed between writing its chunk and this
    return left


def compute_chunk(run: RunDir, network: UNet, group: Group, todo: Remaining, chunk: int, interruption: Interruption,
                  progress: Progress | None) -> None:
    """Write chunk number `chunk` of a sampling; where the stage is asked to stop half-way, save how far it is."""
    spec, folder = with_sampling(run.spec, todo.sampling), run.samples_folder(todo.sampling)
    indices = chunk_indices(spec, chunk)
    labels = sample_labels(spec, indices)
    # All the randomness of a chunk comes from one stream, named by seed and chunk.
    generator = generator_for(group.device, spec.sample.seed, "sample", chunk)
    diffusion = build_diffusion(spec, group.device, spec.sample.timestep_respacing)
    file, identity = partial_file(folder, chunk), partial_identity(todo.settings, indices, group.device_name)
    begun = take_partial(file, identity)
    left = begun.next_step + 1 if begun else diffusion.num_timesteps
    x, saved = None, time.monotonic()
    for step in reverse_chain(spec, network, diffusion, generator, labels, len(indices), begun):
        x = step.x
        if step.t % TELL_EVERY == 0:
            done, left = group.store.add("steps_done", left - step.t), step.t
            if progress:
                progress.update(done)
            stop = asked_to_stop(group, interruption)
            if left and (stop or time.monotonic() - saved >= SAVE_EVERY_S):
                state = {name: tensor.cpu().numpy() for name, tensor in step.state.items()}
                save_partial(file, Partial(state, left - 1, generator.get_state().numpy()), identity)
                saved = time.monotonic()
            if left and stop:
                return
    write_chunk(chunk_file(folder, chunk), Chunk(as_images(x), np.array(indices, dtype=np.int64), labels, group.device_name),
                todo.settings)
    file.unlink(missing_ok=True)
