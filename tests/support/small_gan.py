"""A small GAN of the digits."""

import pytest
from small_runs import making, spec_of

GAN_SPEC = {
    "name": "gan", "kind": "gan",
    "data": {"path": "digits", "image_size": 8, "channels": 1, "class_cond": True, "num_classes": 10},
    "model": {"num_channels": 8, "num_res_blocks": 1, "channel_mult": [1, 2]},
    "gan": {"r1_gamma": 0.3, "r2_gamma": 0.2, "latent_size": 6, "discriminator_lr": 2e-3},
    "train": {"iterations": 12, "batch_size": 12, "lr": 1e-3, "ema_rate": [0.9], "log_interval": 4, "save_interval": 4},
    "sample": {"num_samples": 10, "batch_size": 4, "ema_rate": 0.9},
    "evaluate": {"batch_size": 4},
}


@pytest.fixture
def make_gan(tmp_path):
    """make_gan("train.lr=1e-2", ..., folder="a") -> RunDir: the small GAN with these changes, frozen."""
    return making(GAN_SPEC, tmp_path)


def gan_spec(*overrides: str):
    """Return the resolved spec of the small GAN with these changes."""
    return spec_of(GAN_SPEC, overrides)
