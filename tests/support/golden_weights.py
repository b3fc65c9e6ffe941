"""Weights of the golden network, and random ones, for tests of weight files."""

import torch

from jobs.kinds.diffusion.build import build_network

# The spec of the network of tests/golden/unet_uncond32, with a chain of two steps.
GOLDEN = ("data.image_size=32", "data.channels=3", "data.class_cond=false", "data.num_classes=null",
          "model.num_channels=32", "model.channel_mult=null", "model.attention_resolutions=[16, 8]",
          "model.num_heads=4", "model.dropout=0.1", "diffusion.diffusion_steps=2", "train.ema_rate=[0.9, 0.99]",
          "sample.num_samples=2")


def noise(run, seed=0):
    torch.manual_seed(seed)
    return {key: torch.randn_like(value) for key, value in build_network(run.spec).state_dict().items()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert ours[key].dtype == torch.float32 and torch.equal(ours[key], theirs[key].float()), key
