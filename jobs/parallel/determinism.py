"""Arithmetic of a GPU that repeats to the bit, or that is as fast as it can be.

Some of a GPU's fastest kernels add numbers in an order that changes from run to run, such as the gradients of convolutions and of
attention. torch then has others that keep the order. A CPU's kernels keep it anyway.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

WORKSPACE, FILL = "CUBLAS_WORKSPACE_CONFIG", "fill_uninitialized_memory"


@contextmanager
def repeating(wanted: bool, device: torch.device) -> Iterator[None]:
    """In this block, let a GPU use only kernels that repeat to the bit; if not `wanted`, time kernels and use the fastest.

    Raises RuntimeError, from torch, where an operation has no kernel that repeats. Changes nothing for a CPU.
    """
    if device.type != "cuda":
        yield
        return
    # Read by cuBLAS at its first product, so a stage enters this block before that. torch insists on one of two values.
    os.environ.setdefault(WORKSPACE, ":4096:8")
    cudnn = torch.backends.cudnn
    before = (torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark,
              getattr(torch.utils.deterministic, FILL))
    _set(wanted, wanted, not wanted, False)  # nothing here reads memory before writing it: no need to fill it
    try:
        yield
    finally:
        _set(*before)


def _set(algorithms: bool, cudnn_deterministic: bool, cudnn_benchmark: bool, fill: bool) -> None:
    torch.use_deterministic_algorithms(algorithms)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn_deterministic, cudnn_benchmark
    setattr(torch.utils.deterministic, FILL, fill)
