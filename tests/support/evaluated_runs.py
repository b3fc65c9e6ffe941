"""Networks of noise, and what the evaluation of a run has written."""

import json

import numpy as np
import torch

from jobs.kinds.diffusion.build import build_network


def noisy_network(spec, seed=0):
    """All its layers filled with noise, so that every path through it shows."""
    torch.manual_seed(seed)
    network = build_network(spec)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def result(run):
    return json.loads(run.evaluation.read_text())


def terms(run):
    with np.load(run.path / "bits_per_dim.npz") as file:
        return dict(file)
