"""Precisions by name, and networks that compute in them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Autocast:
    """A network called under autocast: its convolutions and products in `dtype`, its parameters in float32."""

    network: torch.nn.Module
    dtype: torch.dtype

    def __call__(self, x: Tensor, *arguments: Tensor, **model_kwargs: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=self.dtype):
            return self.network(x, *arguments, **model_kwargs)

    def along(self, times: Tensor, **model_kwargs: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """As the network's own `along`; embeddings are computed in float32."""
        at_step = self.network.along(times, **model_kwargs)

        def autocast(x: Tensor, number: Tensor) -> Tensor:
            with torch.autocast(x.device.type, dtype=self.dtype):
                return at_step(x, number)
        return autocast


def autocasting(network: torch.nn.Module, precision: str) -> torch.nn.Module | Autocast:
    """The network as it is for fp32, else under autocast. Losses and samplers around it stay in float32."""
    return network if precision == "fp32" else Autocast(network, AUTOCAST[precision])
