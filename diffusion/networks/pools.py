"""How the half U-Net turns its last activations into logits: names, for a spec. No torch here; see `half_unet`."""

POOLS = ("attention", "adaptive", "spatial", "spatial_v2")
"""attention: the mean attends to all positions; adaptive: a mean over positions; spatial and spatial_v2: means over positions of
the outputs of all blocks. `attention` is that of the published classifiers."""

HIDDEN = 2048
"""Width of the hidden layer of the pools `spatial` and `spatial_v2`."""
