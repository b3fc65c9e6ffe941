"""Precisions by name, and networks that compute in them."""

from collections.abc import Callable
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

    def along(self, times: Tensor, **model_kwargs: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The network's own `along` under autocast; embeddings are computed in float32."""
        along: Callable[..., Callable[[Tensor, Tensor], Tensor]] = self.network.along  # type: ignore[assignment]  # a method
        at_step = along(times, **model_kwargs)

        def autocast(x: Tensor, number: Tensor) -> Tensor:
            with torch.autocast(x.device.type, dtype=self.dtype):
                return at_step(x, number)
        return autocast


def autocasting(network: torch.nn.Module, precision: Precision) -> torch.nn.Module | Autocast:
    """`network` itself for fp32, else `network` under autocast. Losses and samplers around the network stay in float32."""
    return network if precision == "fp32" else Autocast(network, DTYPES[precision])
