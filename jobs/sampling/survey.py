"""What is left to sample: the chunks that are missing, and how many steps each of them still takes."""

from dataclasses import dataclass

from torch import nn

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.run.progress import note
from jobs.sampling.chunks import DamagedChunk, OtherSamples, chunk_file, chunk_indices, chunk_reader, number_of_chunks, read_chunk
from jobs.sampling.gather import check_samples
from jobs.sampling.partial import partial_file, partial_identity, read_partial
from jobs.sampling.weights import settings_of
from jobs.spec.kinds import kind_of
from jobs.spec.samplings import Sampling, with_sampling


@dataclass(frozen=True)
class Remaining:
    """What is left to do of one sampling."""

    sampling: Sampling
    settings: dict
    """Of the samples; see `sampling_settings`."""
    missing: dict[int, int]
    """By the number of each missing chunk, the steps that are left of the chunk."""


def survey(run: RunDir, network: nn.Module, device: str) -> list[Remaining]:
    """Return what is left of each sampling.

    `network` is only there to check whether the weights fit. Raises UserError where weights are missing or do not fit, or a
    folder holds samples of other weights or settings.
    """
    found = []
    for sampling, settings in settings_of(run, network).items():
        missing = missing_chunks(run, sampling, settings)
        found.append(Remaining(sampling, settings, steps_left(run, sampling, settings, missing, device)))
    return found


def missing_chunks(run: RunDir, sampling: Sampling, settings: dict) -> list[int]:
    """Return the numbers of the chunks to compute.

    Damaged chunks are removed and count as missing, and so is a last chunk from when sample.num_samples was another: a batch of
    another size may round otherwise. Raises UserError for chunks of other weights or settings.
    """
    folder = run.samples_folder(sampling)
    if (folder / "samples.h5").exists():
        check_samples(run, settings, sampling)
        return []
    missing, reader = [], chunk_reader()
    for chunk in range(number_of_chunks(run.spec)):
        file = chunk_file(folder, chunk)
        try:
            if file.exists():
                read_chunk(file, chunk_indices(run.spec, chunk), settings, reader)
                continue
        except (DamagedChunk, OtherSamples) as error:
            note(f"{error}; computing it again")
            file.unlink()
        except UserError as error:
            raise UserError(f"{error}. Remove {folder}, and `iddpm sample {run.path}` samples anew.") from error
        missing.append(chunk)
    return missing


def steps_left(run: RunDir, sampling: Sampling, settings: dict, missing: list[int], device: str) -> dict[int, int]:
    """Return how many steps each of the `missing` chunks still takes. Partial files of other chunks are removed."""
    spec, folder = run.spec, run.samples_folder(sampling)
    steps, left = kind_of(spec).steps(with_sampling(spec, sampling)), {}
    for chunk in missing:
        partial = read_partial(partial_file(folder, chunk), partial_identity(settings, chunk_indices(spec, chunk), device))
        left[chunk] = partial.left if partial else steps
    for file in set(folder.glob("partial-*.h5")) - {partial_file(folder, chunk) for chunk in missing}:
        file.unlink()  # a rank was killed after it wrote the chunk and before it removed this file
    return left
