"""The sampling stage: chunks of samples by the ranks as they come free, each a pure function of its number."""

from collections.abc import Iterator

import numpy as np
import torch

from diffusion.gaussian import GaussianDiffusion
from diffusion.samplers import Step, ancestral, ddim
from diffusion.unet import UNet
from jobs.build import build_diffusion, build_network
from jobs.checkpoints import final_checkpoint, load_weights, sha256_of_weights, weights_name
from jobs.chunks import (Chunk, DamagedChunk, chunk_file, chunk_indices, number_of_chunks, read_chunk, sampling_settings,
                         write_chunk)
from jobs.distributed import Group, any_rank, on_main
from jobs.errors import UserError
from jobs.gather import check_samples, gather
from jobs.interruption import Interruption
from jobs.preview import as_images
from jobs.progress import Progress, note
from jobs.randomness import generator_for, randn_from
from jobs.rundir import RunDir
from jobs.spec import Spec

TELL_EVERY = 10  # steps between two words to the main rank about how far this one is


def sample(run: RunDir, group: Group, interruption: Interruption) -> str:
    """Compute the chunks that are missing, then gather all: "done" or "interrupted".

    Raises UserError where training is not finished or the folder holds samples of other weights or settings.
    """
    spec = run.spec
    network, settings = load_sampler(run, group)
    missing = on_main(lambda: missing_chunks(run, settings))
    diffusion = build_diffusion(spec, group.device, spec.sample.timestep_respacing)
    progress = Progress(run.progress, "sample", len(missing) * diffusion.num_timesteps, "steps") if group.is_main else None
    state = "failed"
    try:
        # A counter that all ranks share: whoever is free takes the next, and a slow rank holds up nobody.
        while (turn := group.store.add("chunks_taken", 1) - 1) < len(missing):
            if asked_to_stop(group, interruption):
                break
            chunk = missing[turn]
            images = compute_chunk(spec, network, diffusion, group, chunk, interruption, progress)
            if images is not None:
                write_chunk(chunk_file(run, chunk), images, settings)
        stopped = any_rank(interruption.requested)
        if not stopped and group.is_main:
            gather(run, settings)
        state = "interrupted" if stopped else "done"
    finally:
        if progress:
            progress.close(progress.total if state == "done" else group.store.add("steps_done", 0), state)
    return state


def asked_to_stop(group: Group, interruption: Interruption) -> bool:
    """Whether any rank was, so that all leave together: through the shared store, where no rank waits for another."""
    return group.store.add("asked_to_stop", int(interruption.requested)) > 0


def load_sampler(run: RunDir, group: Group) -> tuple[UNet, dict]:
    """The network with the weights to sample from, in evaluation mode, and the settings that name what it makes."""
    spec = run.spec
    checkpoint = final_checkpoint(run)
    name = weights_name(spec.sample.ema_rate)
    network = build_network(spec)
    weights = checkpoint.weights(spec.sample.ema_rate)
    load_weights(network, weights, checkpoint.path / name)
    return network.to(group.device).eval(), sampling_settings(spec, sha256_of_weights(weights))


def missing_chunks(run: RunDir, settings: dict) -> list[int]:
    """Numbers of the chunks to compute. Damaged ones are removed and count as missing; foreign ones are a UserError."""
    if run.samples_h5.exists():
        check_samples(run, settings)
        return []
    missing = []
    for chunk in range(number_of_chunks(run.spec)):
        file = chunk_file(run, chunk)
        try:
            if file.exists():
                read_chunk(file, chunk_indices(run.spec, chunk), settings)
                continue
        except DamagedChunk as error:
            note(f"{error}; computing it again")
            file.unlink()
        except UserError as error:
            raise UserError(f"{error}. Remove {run.samples}, and `iddpm sample {run.path}` samples anew.") from error
        missing.append(chunk)
    return missing


def compute_chunk(spec: Spec, network: UNet, diffusion: GaussianDiffusion, group: Group, chunk: int,
                  interruption: Interruption, progress: Progress | None) -> Chunk | None:
    """The samples of chunk number `chunk`; None where the stage was asked to stop half-way."""
    indices = chunk_indices(spec, chunk)
    labels = np.array(indices) % spec.data.num_classes if spec.data.class_cond else None
    images = None
    for step in reverse_chain(spec, network, diffusion, chunk, labels):
        images = step.x
        if step.t % TELL_EVERY == 0:
            if asked_to_stop(group, interruption):
                return None
            done = group.store.add("steps_done", min(TELL_EVERY, diffusion.num_timesteps - step.t))
            if progress:
                progress.update(done)
    device = torch.cuda.get_device_name(group.device) if group.device.type == "cuda" else "cpu"
    return Chunk(as_images(images), np.array(indices, dtype=np.int64), labels, device)


def reverse_chain(spec: Spec, network: UNet, diffusion: GaussianDiffusion, chunk: int,
                  labels: np.ndarray | None) -> Iterator[Step]:
    """The reverse process of one chunk. All its randomness comes from one stream, named by seed and chunk."""
    settings, data, device = spec.sample, spec.data, diffusion.device
    rows = len(chunk_indices(spec, chunk))
    generator = generator_for(device, settings.seed, "sample", chunk)
    randn = randn_from(generator, settings.batch_size)
    x_T = randn(torch.empty(rows, data.channels, data.image_size, data.image_size, device=device))
    model_kwargs = {} if labels is None else {"y": torch.from_numpy(labels).to(device)}
    if settings.sampler == "ddim":
        return ddim(diffusion, network, x_T, randn, eta=settings.ddim_eta, clip_denoised=settings.clip_denoised,
                    model_kwargs=model_kwargs)
    return ancestral(diffusion, network, x_T, randn, clip_denoised=settings.clip_denoised, model_kwargs=model_kwargs)
