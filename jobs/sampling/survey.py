"""What is left to sample: the chunks that are missing, and how many steps each of them still takes."""

from dataclasses import dataclass

from torch import nn

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.run.progress import note
from jobs.sampling.chunks import DamagedChunk, alike_chunks, chunk_file, chunk_indices, number_of_chunks, read_chunk
from jobs.sampling.gather import check_samples
from jobs.sampling.partial import partial_file, partial_identity, take_partial
from jobs.sampling.weights import settings_of
from jobs.spec.kinds import kind_of
from jobs.spec.samplings import Sampling, with_sampling


@dataclass(frozen=True)
class Remaining:
    """What is left to do of one sampling."""

    sampling: Sampling
    settings: dict
    """What names its samples."""
    missing: dict[int, int]
    """Number of each chunk to compute: how many steps of its chain are left."""


def survey(run: RunDir, network: nn.Module, device: str) -> list[Remaining]:
    """Return what is missing of each sampling; `network` is there to see whether the weights fit it."""
    found = []
    for sampling, settings in settings_of(run, network).items():
        missing = missing_chunks(run, sampling, settings)
        found.append(Remaining(sampling, settings, steps_left(run, sampling, settings, missing, device)))
    return found


def missing_chunks(run: RunDir, sampling: Sampling, settings: dict) -> list[int]:
    """Return the numbers of the chunks to compute.

    Damaged chunks are removed and count as missing. Raises UserError for chunks of other weights or settings.
    """
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
    """Return how many steps each of the `missing` chunks still takes. Partial files of other chunks are removed."""
    spec, folder = run.spec, run.samples_folder(sampling)
    steps, left = kind_of(spec).steps(with_sampling(spec, sampling)), {}
    for chunk in missing:
        partial = take_partial(partial_file(folder, chunk), partial_identity(settings, chunk_indices(spec, chunk), device))
        left[chunk] = partial.left if partial else steps
    for file in set(folder.glob("partial-*.h5")) - {partial_file(folder, chunk) for chunk in missing}:
        file.unlink()  # a rank was killed between writing its chunk and removing this file
    return left
