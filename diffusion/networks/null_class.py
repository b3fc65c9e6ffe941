"""The null class of a network in the state dicts of other code, which have no row for it.

The last row of `label_emb` stands for "no class" (Ho & Salimans 2022, classifier-free guidance).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

ROWS = "label_emb.weight"
SMALL = 0.02  # deviation of a new row: that of embeddings in transformers, small beside trained ones


def with_null_class(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return `weights` with a small random row for the null class; None where the network has none, or the weights have one.

    The row is equal at every call. Training has to teach the network what it means.
    """
    rows = weights.get(ROWS)
    if not _has(network) or rows is None:
        return None
    wanted, width = network.state_dict()[ROWS].shape
    if rows.shape != (wanted - 1, width):
        return None
    row = SMALL * torch.randn(1, rows.shape[1], generator=torch.Generator().manual_seed(0))
    return {**weights, ROWS: torch.cat([rows, row.to(rows)])}


def without_null_class(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `weights` of `network` without the row of the null class, as other code has them."""
    return {key: value[:-1] if key == ROWS and _has(network) else value for key, value in weights.items()}


def _has(network: nn.Module) -> bool:
    return bool(getattr(network, "null_class", False))
