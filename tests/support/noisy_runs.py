"""Runs that count as trained, with networks of noise, and the samples of such runs."""

import time

import h5py
import numpy as np
import torch

from jobs.kinds.protocol import model_of
from jobs.run.checkpoints import Weights, save_checkpoint
from jobs.run.directory import RunDir
from jobs.spec.kinds import MODEL


def noisy_weights(run: RunDir, seed: int = 0, std: float = 0.2) -> Weights:
    """Return weights of the run's network, all layers filled with noise: its output shows every path through the network."""
    torch.manual_seed(seed)
    network = model_of(run.spec).network(run.spec)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return network.state_dict()


def save_weights(run: RunDir, step: int, raw: Weights, averages: dict[str, Weights]) -> None:
    """Save a checkpoint of step `step` that holds weights alone: `raw` as trained, and averages by their rate."""
    save_checkpoint(run, step, {MODEL: {None: raw, **averages}}, None)


def trained(run: RunDir, averaged: int = 0, raw: int = 1) -> RunDir:
    """Return `run` as if trained: its average has the weights of one seed, its raw weights are those of another."""
    save_weights(run, run.spec.train.iterations, noisy_weights(run, raw), {"0.9": noisy_weights(run, averaged)})
    return run


def noisy(run: RunDir, seed: int = 0, std: float = 0.2) -> RunDir:
    """Return `run`, of any kind with one network, as if trained: the raw weights and their average are those of one seed."""
    weights = noisy_weights(run, seed, std)
    save_weights(run, run.spec.train.iterations, weights, {"0.9": weights})
    return run


def samples(run: RunDir) -> dict[str, np.ndarray]:
    """Return the arrays of samples.h5 by name."""
    with h5py.File(run.samples_h5, "r") as file:
        return {name: file[name][:] for name in file}


def identical(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], count: int | None = None) -> bool:
    """Return whether the first `count` samples (None: all) are equal to the byte, with labels and indices."""
    assert ours.keys() == theirs.keys()
    return all(np.array_equal(ours[name][:count], theirs[name][:count]) for name in ours)


def same(run: RunDir, other: RunDir) -> bool:
    """Return whether the samples of two runs are equal to the byte."""
    return identical(samples(run), samples(other))


def chunk_states(run: RunDir) -> dict[str, tuple[int, int]]:
    """Return inode and time of each chunk's file: they show whether the file was written again."""
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in run.samples.glob("chunk-*.h5")}


def wait_for(condition, processes=(), seconds: float = 60) -> None:
    """Wait until `condition()` holds. Fails after `seconds`, or once all `processes` have ended."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        assert not processes or any(process.poll() is None for process in processes), "all processes ended before"
        time.sleep(0.01)
