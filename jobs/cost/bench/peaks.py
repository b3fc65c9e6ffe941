"""Peak rates of this machine: operations per second in one matrix product, and in one convolution."""

from collections.abc import Iterable
from statistics import median

import torch
from torch.nn import functional as F

from jobs.cost.bench.file import PeakKind
from jobs.cost.bench.timing import Repeats, Work, rates_in_turns
from jobs.parallel.precision import DTYPES, computing_in
from jobs.spec.precisions import Precision

SQUARES = {"cpu": (512, 1024), "cuda": (4096, 8192)}  # rows and columns
# (images, channels in and out, pixels across) of 3x3 convolutions as U-Nets have them.
CONVOLUTIONS = {"cpu": ((8, 64, 32), (8, 128, 32), (16, 256, 8)), "cuda": ((256, 128, 32), (256, 256, 32), (128, 512, 16))}

Product = tuple[PeakKind, Precision, int | tuple[int, int, int]]
"""Kind, precision and size: an entry of SQUARES or CONVOLUTIONS."""


def measure_peaks(device: torch.device, precisions: Iterable[Precision],
                  repeats: Repeats) -> dict[PeakKind, dict[Precision, float]]:
    """Operations per second by kind and precision: the best of a few sizes, where each size has its median."""
    works: dict[Product, Work] = {}
    flops: dict[Product, int] = {}
    for precision in precisions:
        for size in SQUARES[device.type]:
            works["gemm", precision, size] = in_precision(precision, device, product(size, DTYPES[precision], device))
            flops["gemm", precision, size] = 2 * size ** 3
        for shape in CONVOLUTIONS[device.type]:
            images, channels, pixels = shape
            works["convolution", precision, shape] = in_precision(precision, device,
                                                                  convolution(*shape, DTYPES[precision], device))
            flops["convolution", precision, shape] = 2 * images * (channels * pixels * 3) ** 2
    with torch.no_grad():
        for work in works.values():
            work()
        rates = rates_in_turns(works, repeats, device)
    best: dict[PeakKind, dict[Precision, float]] = {"gemm": {}, "convolution": {}}
    for name, found in rates.items():
        kind, precision, _ = name
        best[kind][precision] = max(best[kind].get(precision, 0.0), median(found) * flops[name])
    return best


def in_precision(precision: Precision, device: torch.device, work: Work) -> Work:
    def computed() -> None:
        with computing_in(precision, device):
            work()
    return computed


def product(size: int, dtype: torch.dtype, device: torch.device) -> Work:
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=out)


def convolution(images: int, channels: int, pixels: int, dtype: torch.dtype, device: torch.device) -> Work:
    x = torch.randn(images, channels, pixels, pixels, device=device).to(dtype)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
    return lambda: F.conv2d(x, weight, padding=1)
