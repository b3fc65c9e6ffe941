"""Random streams named by what they are for: no state to save, nothing that depends on the number of ranks."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


def derived_seed(*name: int | str) -> int:
    """A 63-bit seed for the stream called `name`, e.g. derived_seed(seed, "noise", step)."""
    return int.from_bytes(hashlib.sha256(repr(name).encode()).digest()[:8], "big") >> 1


def generator_for(device: torch.device | str, *name: int | str) -> torch.Generator:
    return torch.Generator(device).manual_seed(derived_seed(*name))


def randn_from(generator: torch.Generator, rows: int) -> Callable[[Tensor], Tensor]:
    """randn(x) for x [n <= rows, ...]: the first n of `rows` drawn, so that a short batch sees a full one's noise."""
    def randn(x: Tensor) -> Tensor:
        return torch.randn((rows, *x.shape[1:]), generator=generator, device=generator.device)[:len(x)]
    return randn
