"""Gather 50,000 samples of 32x32x3 from chunks of 500, against writing their bytes: python tests/benchmarks/gather.py [N]

    plain       write the images' bytes to a file, flushed to the disk (fsync)
    sha256      compute the checksum of as many bytes, in memory
    samples.h5  `gather` a sampling: read every chunk and test its checksum, write the chunk into its place while the next one
                is read, seal the file with a checksum of the whole, flush
    gather      `gather` the main sampling, which has samples.npz and pictures too

Ratios are of medians over interleaved rounds, with quartiles.
"""

import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from jobs.run.directory import RunDir
from jobs.run.study.freezing import freeze
from jobs.sampling.chunks import Chunk, chunk_file, chunk_indices, number_of_chunks, sampling_settings, write_chunk
from jobs.sampling.gather import gather
from jobs.spec.reading.file import load
from jobs.spec.samplings import Sampling, samplings

SPEC = """name: benchmark
data: {path: random.h5, image_size: 32}
train: {iterations: 1}
sample: {num_samples: %d, batch_size: 500}
"""
ROUNDS = 9


def made(run: RunDir, sampling: Sampling, settings: dict) -> None:
    """Write the chunks of `sampling`, with random images."""
    random, folder = np.random.default_rng(0), run.samples_folder(sampling)
    folder.mkdir(parents=True)
    for chunk in range(number_of_chunks(run.spec)):
        indices = chunk_indices(run.spec, chunk)
        images = random.integers(0, 256, (len(indices), 32, 32, 3), np.uint8)
        write_chunk(chunk_file(folder, chunk), Chunk(images, np.array(indices), None, "cpu"), settings)


def measure(count: int) -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        (Path(folder) / "spec.yaml").write_text(SPEC % count)
        run = freeze(load(Path(folder) / "spec.yaml"), Path(folder) / "runs")[0]
        (main,), other = samplings(run.spec), Sampling(1, (("sampler", "ddim"),))  # the main one alone has a samples.npz
        settings = sampling_settings(run.spec, "0" * 64)
        made(run, main, settings)
        made(run, other, settings)
        content = np.random.default_rng(0).bytes(count * 32 * 32 * 3)

        def plain() -> None:
            with open(Path(folder) / "plain", "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        works = {"plain": plain, "sha256": lambda: hashlib.sha256(content).digest(),
                 "samples.h5": lambda: gather(run, settings, other), "gather": lambda: gather(run, settings, main)}
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(ROUNDS + 1):
            for name, work in works.items():
                for file in (Path(folder) / "plain", *run.samples.rglob("samples*.*")):
                    file.unlink(missing_ok=True)
                os.sync()
                began = time.perf_counter()
                work()
                if turn:
                    seconds[name].append(time.perf_counter() - began)
    for name, found in seconds.items():
        low, median, high = np.percentile(1e3 * np.array(found), [25, 50, 75])
        ratios = np.percentile(np.array(found) / np.array(seconds["plain"]), [25, 50, 75])
        print(f"{name:10s} {median:7.0f} ms [{low:.0f}, {high:.0f}]   "
              f"{ratios[1]:.2f} of plain [{ratios[0]:.2f}, {ratios[2]:.2f}]")


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)
