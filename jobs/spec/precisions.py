"""The precisions in which a network can compute, by name. Parameters and losses stay in float32."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Precision:
    dtype: str
    """Name of the torch type."""
    bytes: int
    """Of one number."""


PRECISIONS = {"fp32": Precision("float32", 4), "bf16": Precision("bfloat16", 2), "fp16": Precision("float16", 2)}
