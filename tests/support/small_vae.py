"""A small variational autoencoder of the digits."""

import pytest
from small_runs import making, spec_of

VAE_SPEC = {
    "name": "vae", "kind": "vae",
    "data": {"path": "digits", "image_size": 8, "channels": 1, "class_cond": True, "num_classes": 10},
    "model": {"num_channels": 8, "num_res_blocks": 1, "channel_mult": [1, 2]},
    "vae": {"latent_channels": 6, "kl_warmup": 6},
    "train": {"iterations": 12, "batch_size": 12, "lr": 1e-3, "ema_rate": [0.9], "log_interval": 4, "save_interval": 4},
    "sample": {"num_samples": 10, "batch_size": 4, "ema_rate": 0.9},
    "evaluate": {"batch_size": 4, "nll_data": "digits-test", "nll_examples": 6},
}
DENSITY = ["vae.decoder=gaussian", "evaluate.nll_examples=0", "evaluate.nll_data=null"]


@pytest.fixture
def make_vae(tmp_path):
    """make_vae("train.lr=1e-2", ..., folder="a") -> RunDir: the small autoencoder with these changes, frozen."""
    return making(VAE_SPEC, tmp_path)


def vae_spec(*overrides: str):
    """Return the resolved spec of the small autoencoder with these changes."""
    return spec_of(VAE_SPEC, overrides)
