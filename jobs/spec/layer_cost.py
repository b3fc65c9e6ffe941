"""What one layer of a network costs, counted without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerCost:
    """One layer. An operation (flop) is half a multiply-add of matrix products, convolutions and attention's two products."""

    name: str
    """Prefix of its keys in the state dict, such as "input_blocks.1.0"."""
    kind: str
    """Groups layers in tables, such as res, attention or conv."""
    resolution: int
    """Of its output, in pixels; 1 for embeddings."""
    channels: int
    """Of its output."""
    parameters: int
    tensors: int
    """Keys in the state dict."""
    flops: int
    """Of one forward pass of one image."""
    activations: int
    """Elements per image that autograd keeps for the backward pass."""
    checkpointed_activations: int
    """Elements per image that autograd keeps with gradient checkpointing."""
    recomputed_flops: int = 0
    """Operations per image that the backward pass repeats with gradient checkpointing."""
    norm_inputs: int = 0
    """Elements of `activations` that stay fp32 in mixed precision; counted twice where a half-precision copy is kept, too."""
    recomputable: bool = False
    """Whether train.gradient_checkpointing recomputes this layer."""
