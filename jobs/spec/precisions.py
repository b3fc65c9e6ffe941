"""The precisions in which a network can compute, by name. Parameters and losses stay in float32."""

from dataclasses import dataclass
from typing import Literal, get_args

Precision = Literal["fp32", "tf32", "bf16", "fp16"]


@dataclass(frozen=True)
class NumberFormat:
    dtype: str
    """Name of the torch type."""
    bytes: int
    """Of one number."""


# tf32 rounds the inputs of products and convolutions to TensorFloat-32, on GPUs that have it; on a CPU it is fp32.
PRECISIONS: dict[Precision, NumberFormat] = {
    "fp32": NumberFormat("float32", 4), "tf32": NumberFormat("float32", 4),
    "bf16": NumberFormat("bfloat16", 2), "fp16": NumberFormat("float16", 2)}
assert set(PRECISIONS) == set(get_args(Precision))
