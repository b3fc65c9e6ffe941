"""Look for numbers that are not finite: NaN and infinities."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether every value of every tensor is finite. Waits for the device once for each tensor."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Describe the first tensor that is not finite, such as "out.2.weight: 3 of 64 values are not finite (nan)"."""
    for name, tensor in tensors.items():
        if not all_finite([tensor]):
            bad = tensor[~torch.isfinite(tensor)]
            return f"{name}: {len(bad)} of {tensor.numel()} values are not finite ({bad[0].item()})"
    return None
