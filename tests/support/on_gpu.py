"""What tests on a GPU share: where they run, a network with layers of every kind, errors as shares of a norm."""

import os

import numpy as np
import pytest
import torch

from jobs.data.dataset import ImageData
from jobs.kinds.diffusion.sections import DiffusionSpec, DiffusionSpecAsWritten, resolve

ON = os.environ.get("IDDPM_GPU_TESTS", "cuda")
"""cpu: run on the CPU what can run there."""
IS_GPU = ON == "cuda" and torch.cuda.is_available()
GPUS = torch.cuda.device_count() if IS_GPU else 0
ON_A_GPU = [f"resources.{stage}.gpus_per_node=1" for stage in ("train", "sample", "evaluate")] if IS_GPU else []

needs_gpu = pytest.mark.skipif(ON == "cuda" and not IS_GPU, reason="no GPU that CUDA shows")
only_gpu = pytest.mark.skipif(not IS_GPU, reason="no GPU that CUDA shows")


def medium(train: dict | None = None, sample: dict | None = None, **model) -> DiffusionSpec:
    """A network of 2 M parameters for images of 16x16 with every kind of layer that cifar10.yaml has."""
    return resolve(DiffusionSpecAsWritten.model_validate({
        "name": "medium", "data": {"path": "random", "image_size": 16, "class_cond": True, "num_classes": 10},
        "model": {"num_channels": 64, "num_res_blocks": 1, "channel_mult": [1, 2], "attention_resolutions": [8], "num_heads": 4,
                  "dropout": 0.1, **model},
        "diffusion": {"diffusion_steps": 100},
        "train": {"iterations": 100, "batch_size": 4, "ema_rate": [0.9], "label_dropout": 0.1, **(train or {})},
        "sample": {"num_samples": 4, "batch_size": 4, "ema_rate": 0.9, "timestep_respacing": "10", **(sample or {})}}))


def fill_with_noise(network: torch.nn.Module, std: float = 0.05, seed: int = 0) -> torch.nn.Module:
    """Fill all weights with noise, the same on every device: a new network gives zeros, whatever goes on inside."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1))
    return network


def random_data(spec: DiffusionSpec, count: int = 64) -> ImageData:
    random, size = np.random.default_rng(0), spec.data.image_size
    return ImageData(random.integers(0, 256, (count, size, size, spec.data.channels), dtype=np.uint8),
                     random.integers(0, 10, count), [], "random")


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of the difference, as a share of the norm of what was expected."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return (torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)).item()
