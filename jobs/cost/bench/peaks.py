"""The most operations per second that this machine does in one matrix product, and in one convolution."""

from collections.abc import Iterable
from statistics import median

import torch
from torch.nn import functional as F

from jobs.cost.bench.timing import Effort, Work, rates_in_turns

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SQUARES = {"cpu": (512, 1024), "cuda": (4096, 8192)}
# (images, channels in and out, pixels across) of a 3x3 convolution: those of U-Nets.
CONVOLUTIONS = {"cpu": ((8, 64, 32), (8, 128, 32), (16, 256, 8)), "cuda": ((256, 128, 32), (256, 256, 32), (128, 512, 16))}


def measure_peaks(device: torch.device, precisions: Iterable[str], effort: Effort) -> dict[str, dict[str, float]]:
    """Operations per second by kind ("gemm", "convolution") and precision: the best of a few sizes, each by its median."""
    works: dict[tuple, Work] = {}
    flops: dict[tuple, int] = {}
    for precision in precisions:
        for size in SQUARES[device.type]:
            works["gemm", precision, size] = product(size, DTYPES[precision], device)
            flops["gemm", precision, size] = 2 * size ** 3
        for shape in CONVOLUTIONS[device.type]:
            images, channels, pixels = shape
            works["convolution", precision, shape] = convolution(*shape, DTYPES[precision], device)
            flops["convolution", precision, shape] = 2 * images * (channels * pixels * 3) ** 2
    with torch.no_grad():
        for work in works.values():
            work()
        rates = rates_in_turns(works, effort, device)
    best: dict[str, dict[str, float]] = {"gemm": {}, "convolution": {}}
    for (kind, precision, size), found in rates.items():
        best[kind][precision] = max(best[kind].get(precision, 0.0), median(found) * flops[kind, precision, size])
    return best


def product(size: int, dtype: torch.dtype, device: torch.device) -> Work:
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=out)


def convolution(images: int, channels: int, pixels: int, dtype: torch.dtype, device: torch.device) -> Work:
    x = torch.randn(images, channels, pixels, pixels, device=device).to(dtype)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
    return lambda: F.conv2d(x, weight, padding=1)
