"""Chunks into samples.h5, the field's samples.npz and pictures. A few chunks are in memory at a time, however many there are."""

import json
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np

from jobs.data.pictures import grid, write_png
from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.run.given import GivenImages, open_given
from jobs.run.progress import note
from jobs.run.provenance import package_versions
from jobs.sampling.chunks import Chunk, chunk_file, chunk_indices, chunk_reader, differences, read_chunk, sample_labels
from jobs.spec.kinds import kind_of
from jobs.spec.reading.frozen import dump
from jobs.spec.samplings import Sampling, differing, main_sampling, samplings, with_sampling
from jobs.storage.files import atomic_path
from jobs.storage.hdf5 import Layout, fill, lay_out
from jobs.storage.opening import open_hdf5
from jobs.storage.sealed import open_sealed

SMALL_GRID, LARGE_GRID = 16, 100
"""Numbers of samples on samples.png and on samples-grid.png."""
READERS = 2
"""Threads that read chunks ahead."""

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def gather(run: RunDir, settings: dict, sampling: Sampling) -> None:
    """Write samples.h5 of `sampling` from the chunks made with `settings`, unless the file exists.

    Write samples.png too; for the main sampling also samples.npz and a larger picture. Raises UserError that names the chunks
    which are missing, damaged, or made with other settings.
    """
    folder = run.samples_folder(sampling)
    if not (folder / "samples.h5").exists():
        _write_h5(run, sampling, settings)
    if folder == run.samples:
        _write_npz(run)
    with open_hdf5(folder / "samples.h5") as file:
        images = file["images"][:LARGE_GRID]
    if folder == run.samples:
        write_png(folder / "samples-grid.png", grid(images, columns=10))
    write_png(folder / "samples.png", grid(images[:SMALL_GRID], columns=4))


def gather_run(run: RunDir) -> None:
    """Gather every sampling of the run, without its weights. Raises UserError as `gather` does."""
    for sampling in samplings(run.spec):
        gather(run, recorded_settings(run, sampling), sampling)


def recorded_settings(run: RunDir, sampling: Sampling) -> dict:
    """Return the settings that samples.h5 of `sampling` was made with; where there is no such file, those of the first chunk.

    Raises UserError where there are no samples, or the file cannot be read.
    """
    folder = run.samples_folder(sampling)
    for file in [*folder.glob("samples.h5"), *sorted(folder.glob("chunk-*.h5"))]:
        try:
            with open_sealed(file, note) as opened:
                return json.loads(opened.attrs["settings"])
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({error}); `iddpm sample {run.path}` computes it again") from error
    raise UserError(f"{folder}: no chunks to gather; run `iddpm sample {run.path}`")


def _write_h5(run: RunDir, sampling: Sampling, settings: dict) -> None:
    """Write samples.h5 of `sampling`. Raises UserError as `_pieces` does."""
    spec, data, folder, given = run.spec, run.spec.data, run.samples_folder(sampling), open_given(run)
    count, size = spec.sample.num_samples, spec.sample.batch_size
    # Each HDF5 chunk holds one sampling chunk, which is copied as it is: 15 times faster than with HDF5's own size of chunks.
    layouts = {"images": Layout((count, data.image_size, data.image_size, data.channels), np.uint8, rows_per_chunk=size),
               "sample_index": Layout((count,), "<i8")}
    if sample_labels(spec, settings, range(0), given) is not None:
        layouts["labels"] = Layout((count,), "<i8")
    attributes = {
        "spec": dump(spec), "settings": json.dumps(settings),
        "weights_sha256": settings["weights_sha256"],
        **kind_of(spec).sampling_attributes(with_sampling(spec, sampling)), "step": sampling.step,
        "differs": json.dumps(differing(spec, sampling)), "packages": json.dumps(package_versions())}
    # HDF5 stores attributes before the data, but the devices are known only after the last chunk. We guess the first chunk's
    # device and write the file again if that was wrong.
    devices, found = _device_of_first(run, folder, settings), set[str]()
    while True:
        with atomic_path(folder / "samples.h5") as temporary:
            places = lay_out(temporary, layouts, attributes | {"device": ", ".join(sorted(devices))}, sealed=True)
            fill(temporary, _pieces(run, folder, settings, places, found, given), places)
        if found == devices:
            return
        devices, found = found, set()


def _device_of_first(run: RunDir, folder: Path, settings: dict) -> set[str]:
    """Return the kind of device that made the first chunk, as a set of one; the empty set where the chunk cannot be read."""
    try:
        return {read_chunk(chunk_file(folder, 0), chunk_indices(run.spec, 0), settings).device}
    except UserError:
        return set()


def _pieces(run: RunDir, folder: Path, settings: dict, places: dict[str, list[int]],
            devices: set[str], given: GivenImages | None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the parts of samples.h5, each with its offset in the file. Add the devices that made the chunks to `devices`.

    `given`: the images that the samples are made of.

    Raises UserError, after the last part, that names the chunks which are missing, damaged, or made with other settings.
    """
    every = range(run.spec.sample.num_samples)
    whole: dict[int, np.ndarray] = {places["sample_index"][0]: np.arange(len(every))}
    labels = sample_labels(run.spec, settings, every, given)
    if labels is not None:
        whole[places["labels"][0]] = labels
    chunk_at = {place: number for number, place in enumerate(places["images"])}
    reader = chunk_reader()

    def chunk_or_problem(place: int) -> Chunk | str:
        number = chunk_at[place]
        file = chunk_file(folder, number)
        try:
            if not file.exists():
                return f"{file}: missing"
            return read_chunk(file, chunk_indices(run.spec, number), settings, reader)
        except UserError as error:
            return str(error)

    problems: list[str] = []
    chunks = in_order(chunk_or_problem, sorted(chunk_at))
    for place in sorted([*whole, *chunk_at]):
        if place in whole:
            yield place, whole[place]
        elif isinstance(found := next(chunks), Chunk):
            devices.add(found.device)
            yield place, found.images
        else:
            problems.append(found)
    if problems:
        more = [f"... and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise UserError("\n".join([*problems[:10], *more, f"`iddpm sample {run.path}` computes what is missing or damaged."]))


def in_order(function: Callable[[Argument], Result], arguments: Sequence[Argument]) -> Iterator[Result]:
    """Yield function(argument) for each argument, in order. READERS threads compute the next ones meanwhile."""
    with ThreadPoolExecutor(READERS) as readers:
        ahead: deque[Future[Result]] = deque()
        for argument in arguments:
            ahead.append(readers.submit(function, argument))
            if len(ahead) > READERS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _write_npz(run: RunDir) -> None:
    """Write samples.npz from samples.h5, part by part: arr_0 uint8 [N, H, W, C] and arr_1 int64 [N], the labels, as the
    field's evaluators read them."""
    with atomic_path(run.samples / "samples.npz") as temporary, open_hdf5(run.samples_h5) as file, \
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, key in (("arr_0.npy", "images"), ("arr_1.npy", "labels")):
            if key in file:
                _write_npy(archive, name, file[key], run.spec.sample.batch_size)


def _write_npy(archive: zipfile.ZipFile, name: str, dataset: h5py.Dataset, rows: int) -> None:
    """Add `dataset` to the archive as a .npy file, `rows` rows at a time."""
    with archive.open(name, "w", force_zip64=True) as member:
        header = {"descr": np.lib.format.dtype_to_descr(dataset.dtype), "fortran_order": False, "shape": dataset.shape}
        np.lib.format.write_array_header_1_0(member, header)
        buffer = np.empty((rows, *dataset.shape[1:]), dataset.dtype)  # used again and again: new memory takes longer than copying
        for start in range(0, len(dataset), rows):
            part = buffer[:len(dataset) - start]
            dataset.read_direct(part, np.s_[start:start + len(part)])
            member.write(part.data)


def check_samples(run: RunDir, settings: dict, sampling: Sampling | None = None) -> None:
    """Check samples.h5 of `sampling` (None: the main one).

    Raises UserError where the file is missing, damaged, not made with `settings`, or holds another number of samples.
    """
    file = run.samples_folder(sampling or main_sampling(run.spec)) / "samples.h5"
    if not file.exists():
        raise UserError(f"{file}: missing; run `iddpm sample {run.path}`")
    try:
        with open_sealed(file, note) as opened:
            theirs, count = json.loads(opened.attrs["settings"]), len(opened["images"])
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}). "
                        f"Remove it, and `iddpm sample {run.path}` gathers it again.") from error
    if theirs != settings:
        raise UserError(f"{file}: made with other weights or settings: {differences(theirs, settings)}. "
                        f"Remove {file.parent}, and `iddpm sample {run.path}` samples anew.")
    if count != run.spec.sample.num_samples:
        raise UserError(f"{file}: holds {count} samples, but sample.num_samples is {run.spec.sample.num_samples}. "
                        f"Remove the file, and `iddpm sample {run.path}` computes what is missing.")
