"""Chunks into samples.h5, the field's samples.npz, and pictures. Memory: a few chunks, whatever their number."""

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
from jobs.run.provenance import package_versions
from jobs.sampling.chunks import Chunk, alike_chunks, chunk_file, chunk_indices, differences, read_chunk, sample_labels
from jobs.spec.frozen import dump
from jobs.spec.kinds import kind_of
from jobs.spec.samplings import Sampling, samplings, with_sampling
from jobs.storage.files import atomic_path
from jobs.storage.hdf5 import Layout, fill, lay_out
from jobs.storage.sealed import open_sealed

FIRST, LARGER = 16, 100
READERS = 2
A, B = TypeVar("A"), TypeVar("B")


def gather(run: RunDir, settings: dict, sampling: Sampling) -> None:
    """Write a sampling's samples.h5 from the chunks made with `settings`, where it is not there already.

    For the main sampling samples.npz and the pictures too. Raises UserError that names every chunk which is missing, damaged
    or foreign.
    """
    folder = run.samples_folder(sampling)
    if not (folder / "samples.h5").exists():
        _write_h5(run, sampling, settings)
    if folder != run.samples:
        return
    _write_npz(run)
    with h5py.File(run.samples_h5, "r") as file:
        images = file["images"][:LARGER]
    write_png(run.samples / "samples-grid.png", grid(images, columns=10))
    write_png(run.samples_png, grid(images[:FIRST], columns=4))


def gather_run(run: RunDir) -> None:
    """Gather every sampling of the run without the weights at hand. Raises UserError as `gather` does."""
    for sampling in samplings(run.spec):
        gather(run, recorded_settings(run, sampling), sampling)


def recorded_settings(run: RunDir, sampling: Sampling) -> dict:
    """The settings that a sampling's samples.h5 was made with, or before there is one the first of its chunks."""
    folder = run.samples_folder(sampling)
    for file in [*folder.glob("samples.h5"), *sorted(folder.glob("chunk-*.h5"))]:
        try:
            with open_sealed(file) as opened:
                return json.loads(opened.attrs["settings"])
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({error}); `iddpm sample {run.path}` computes it again") from error
    raise UserError(f"{folder}: no chunks to gather; run `iddpm sample {run.path}`")


def _write_h5(run: RunDir, sampling: Sampling, settings: dict) -> None:
    """Raises UserError as `_pieces` does."""
    spec, data, folder = run.spec, run.spec.data, run.samples_folder(sampling)
    count, size = spec.sample.num_samples, spec.sample.batch_size
    # HDF5's own choice of chunks is 15 times slower; one sampling chunk each is written as it is.
    layouts = {"images": Layout((count, data.image_size, data.image_size, data.channels), np.uint8, rows_per_chunk=size),
               "sample_index": Layout((count,), "<i8")}
    if data.class_cond:
        layouts["labels"] = Layout((count,), "<i8")
    attributes = {
        "spec": dump(spec), "settings": json.dumps(settings),
        "weights_sha256": settings["weights_sha256"],
        **kind_of(spec).sampling_attributes(with_sampling(spec, sampling)), "packages": json.dumps(package_versions())}
    # Attributes stand first in the file, and of which devices its chunks are is known when the last was read: nearly
    # always of the first one's.
    devices, found = None, set()
    while found != devices:
        devices, found = found or _device_of_first(run, folder, settings), set()
        with atomic_path(folder / "samples.h5") as temporary:
            places = lay_out(temporary, layouts, attributes | {"device": ", ".join(sorted(devices))})
            fill(temporary, _pieces(run, folder, settings, places, found))


def _device_of_first(run: RunDir, folder: Path, settings: dict) -> set[str]:
    """The kind of device that made the first chunk; none where that cannot be told."""
    try:
        return {read_chunk(chunk_file(folder, 0), chunk_indices(run.spec, 0), settings).device}
    except UserError:
        return set()


def _pieces(run: RunDir, folder: Path, settings: dict, places: dict[str, list[int]],
            devices: set[str]) -> Iterator[tuple[int, np.ndarray]]:
    """What belongs where in samples.h5, by offset; adds to `devices` what made the chunks.

    Raises UserError, after the last, that names every chunk which is missing, damaged or foreign.
    """
    every = range(run.spec.sample.num_samples)
    whole = {"sample_index": np.arange(len(every)), "labels": sample_labels(run.spec, every)}
    whole = {places[name][0]: array for name, array in whole.items() if name in places}
    chunk_at = {place: number for number, place in enumerate(places["images"])}
    files = alike_chunks()

    def chunk_or_problem(place: int) -> Chunk | str:
        number = chunk_at[place]
        file = chunk_file(folder, number)
        try:
            if not file.exists():
                return f"{file}: missing"
            return read_chunk(file, chunk_indices(run.spec, number), settings, files)
        except UserError as error:
            return str(error)

    problems = []
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


def in_order(function: Callable[[A], B], arguments: Sequence[A]) -> Iterator[B]:
    """function of each, in their order; READERS of them are at work while the caller is."""
    with ThreadPoolExecutor(READERS) as readers:
        ahead: deque[Future[B]] = deque()
        for argument in arguments:
            ahead.append(readers.submit(function, argument))
            if len(ahead) > READERS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _write_npz(run: RunDir) -> None:
    """arr_0 uint8 NHWC and arr_1 labels, as the field's evaluators read them; streamed from samples.h5."""
    with atomic_path(run.samples / "samples.npz") as temporary, h5py.File(run.samples_h5, "r") as file, \
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, key in (("arr_0.npy", "images"), ("arr_1.npy", "labels")):
            if key in file:
                _write_npy(archive, name, file[key], run.spec.sample.batch_size)


def _write_npy(archive: zipfile.ZipFile, name: str, dataset: h5py.Dataset, rows: int) -> None:
    with archive.open(name, "w", force_zip64=True) as member:
        header = {"descr": np.lib.format.dtype_to_descr(dataset.dtype), "fortran_order": False, "shape": dataset.shape}
        np.lib.format.write_array_header_1_0(member, header)
        buffer = np.empty((rows, *dataset.shape[1:]), dataset.dtype)  # one for all: new memory takes longer than copying
        for start in range(0, len(dataset), rows):
            part = buffer[:len(dataset) - start]
            dataset.read_direct(part, np.s_[start:start + len(part)])
            member.write(part)


def check_samples(run: RunDir, settings: dict, sampling: Sampling | None = None) -> None:
    """Raises UserError where the samples.h5 of `sampling` is missing, damaged, or not made with `settings`. None: the main one."""
    file = run.samples_folder(sampling or samplings(run.spec)[0]) / "samples.h5"
    if not file.exists():
        raise UserError(f"{file}: missing; run `iddpm sample {run.path}`")
    try:
        with open_sealed(file) as opened:
            theirs = json.loads(opened.attrs["settings"])
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}). "
                        f"Remove it, and `iddpm sample {run.path}` gathers it again.") from error
    if theirs != settings:
        raise UserError(f"{file}: made with other weights or settings: {differences(theirs, settings)}. "
                        f"Remove {file.parent}, and `iddpm sample {run.path}` samples anew.")
