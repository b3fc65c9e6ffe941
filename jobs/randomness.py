"""Random streams with names: there is no state to save, and nothing depends on the number of ranks."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


def derived_seed(*name: int | str) -> int:
    """A 63-bit seed for the stream called `name`, e.g. derived_seed(seed, "noise", step)."""
    return int.from_bytes(hashlib.sha256(repr(name).encode()).digest()[:8], "big") >> 1


def generator_for(device: torch.device | str, *name: int | str) -> torch.Generator:
    """A new generator on `device`, at the start of the stream called `name`."""
    return torch.Generator(device).manual_seed(derived_seed(*name))


def randn_from(generator: torch.Generator, rows: int) -> Callable[[Tensor], Tensor]:
    """Return randn(x) for x [n, ...] with n <= rows: it draws `rows` rows and returns n, so short batches get equal noise."""
    def randn(x: Tensor) -> Tensor:
        return torch.randn((rows, *x.shape[1:]), generator=generator, device=generator.device)[:len(x)]
    return randn
