"""Chunks of samples of a small run, made without a network."""

import numpy as np
from hypothesis import strategies as st

from jobs.sampling.chunks import Chunk, chunk_file, chunk_indices, number_of_chunks, sampling_settings, write_chunk
from jobs.spec.samplings import samplings

WEIGHTS = "ab" * 32  # stands for the checksum of the weights


def fill(run, device="cpu"):
    """Write chunks of random images as sampling would; all images [N, H, W, C], and the settings they are made with."""
    spec, data, rng, made = run.spec, run.spec.data, np.random.default_rng(0), []
    made_with = sampling_settings(spec, WEIGHTS)
    for number in range(number_of_chunks(spec)):
        indices = np.array(chunk_indices(spec, number))
        made.append(rng.integers(0, 256, (len(indices), data.image_size, data.image_size, data.channels), np.uint8))
        labels = indices % data.num_classes if data.class_cond else None
        write_chunk(chunk_file(run.samples, number), Chunk(made[-1], indices, labels, device), made_with)
    return np.concatenate(made), made_with


def main(run):
    return samplings(run.spec)[0]


def zeros(start, stop):
    """Black samples start .. stop - 1."""
    indices = np.arange(start, stop)
    return Chunk(np.zeros((len(indices), 8, 8, 1), np.uint8), indices, indices, "cpu")


def contents(run):
    """The bytes of every file in samples/, hidden ones too."""
    return {path.name: path.read_bytes() for path in run.samples.iterdir()}


def flip(file, run):
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)


def other_weights(file, run):
    write_chunk(file, zeros(4, 8), sampling_settings(run.spec, "cd" * 32))


def damaged(data, whole):
    """`whole` with some bits of one byte flipped, or cut off somewhere; hypothesis draws which."""
    if data.draw(st.booleans(), label="cut"):
        return whole[:data.draw(st.integers(0, len(whole) - 1))]
    found = bytearray(whole)
    found[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    return found
