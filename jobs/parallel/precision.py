"""Precisions by name, and networks that compute in them.

Products and convolutions of float32 numbers are exact to float32 unless a stage asks for tf32. torch's own default is
TensorFloat-32 in convolutions, which keeps ten bits of each input. The switches are those that torch 2.6 to 2.13 share; the
newer ones (`fp32_precision`) must not be mixed with these, which torch's compiler and `torch.backends.cudnn.flags` still read.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.spec.precisions import PRECISIONS, Precision

DTYPES: dict[Precision, torch.dtype] = {name: getattr(torch, form.dtype) for name, form in PRECISIONS.items()}


@dataclass(frozen=True)
class Autocast:
    """Calls a network under autocast: convolutions and products in `dtype`, parameters in float32."""

    network: torch.nn.Module
    dtype: torch.dtype

    def __call__(self, x: Tensor, *arguments: Tensor, **model_kwargs: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=self.dtype):
            return self.network(x, *arguments, **model_kwargs)


@dataclass(frozen=True)
class AutocastAlong(Autocast):
    """An `Autocast` of a network with a method `along`: only such a network has the method under autocast too."""

    def along(self, times: Tensor, **model_kwargs: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The network's own `along` under autocast; embeddings are computed in float32."""
        along: Callable[..., Callable[[Tensor, Tensor], Tensor]] = self.network.along  # type: ignore[assignment]  # a method
        at_step = along(times, **model_kwargs)

        def autocast(x: Tensor, number: Tensor) -> Tensor:
            with torch.autocast(x.device.type, dtype=self.dtype):
                return at_step(x, number)
        return autocast


def autocasting(network: torch.nn.Module, precision: Precision) -> torch.nn.Module | Autocast:
    """`network` itself for fp32 and tf32, else `network` under autocast. Losses and samplers around it stay in float32."""
    if DTYPES[precision] == torch.float32:
        return network
    return (AutocastAlong if hasattr(network, "along") else Autocast)(network, DTYPES[precision])


def exact_products() -> None:
    """From now on, compute products and convolutions of float32 numbers in float32."""
    _allow_tf32(False)


@contextmanager
def computing_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """In this block, let a GPU round the inputs of products of float32 numbers to TensorFloat-32 if `precision` is tf32.

    Backward passes must run in the block, too. A CPU has no such numbers: there tf32 is fp32.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    _allow_tf32(precision == "tf32" and device.type == "cuda")
    try:
        yield
    finally:
        _allow_tf32(before)


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
