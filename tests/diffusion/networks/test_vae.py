"""Encoder and decoder of a variational autoencoder."""

import pytest
import torch

from diffusion.baselines.elbo import LOWEST_LOG_SCALE
from diffusion.networks.vae import VAE


def network(**settings) -> VAE:
    """A small network; all its weights are noise, so that every path shows."""
    torch.manual_seed(0)
    made = VAE(**{"image_size": 8, "channels": 3, "widths": [8, 16], "num_res_blocks": 2, "latent": "vector",
                  "latent_channels": 5, "scale_per_value": True, "num_classes": 4} | settings)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


@pytest.mark.parametrize("settings, latent", [
    ({}, (5,)), ({"latent": "spatial"}, (5, 4, 4)), ({"widths": [8], "latent": "spatial"}, (5, 8, 8)),
    ({"widths": [8, 16, 16, 8], "num_res_blocks": 1, "channels": 1}, (5,))])
@pytest.mark.parametrize("scale_per_value", [True, False])
def test_it_encodes_and_decodes_images_of_its_size(settings, latent, scale_per_value):
    vae = network(scale_per_value=scale_per_value, **settings)
    x, y = torch.rand(2, settings.get("channels", 3), 8, 8) * 2 - 1, torch.tensor([0, 3])
    mean, log_variance, x_mean, log_scale = vae(x, torch.randn(2, *latent), y)
    assert vae.latent_shape == latent == tuple(mean.shape[1:]) == tuple(log_variance.shape[1:])
    assert x_mean.shape == log_scale.shape == x.shape and (log_scale >= LOWEST_LOG_SCALE).all()
    assert (log_scale.unique().numel() == 1) != scale_per_value
    mean_again, _ = vae.encoder(x, y)
    torch.testing.assert_close(vae.decoder(mean_again, y)[0], vae(x, torch.zeros(2, *latent), y)[2])


def test_classes_matter_to_both_halves():
    vae, x, z = network(), torch.rand(2, 3, 8, 8), torch.randn(2, 5)
    first, second = torch.tensor([0, 0]), torch.tensor([1, 1])
    assert (vae.encoder(x, first)[0] != vae.encoder(x, second)[0]).all()
    assert (vae.decoder(z, first)[0] != vae.decoder(z, second)[0]).all()
    without = network(num_classes=None)
    assert not any("label_emb" in key for key in without.state_dict())


def test_an_example_depends_on_no_other():
    vae, x, noise, y = network(), torch.rand(6, 3, 8, 8), torch.randn(6, 5), torch.arange(6) % 4
    whole, alone = vae(x, noise, y), vae(x[2:3], noise[2:3], y[2:3])
    for one, other in zip(whole, alone, strict=True):
        torch.testing.assert_close(one[2:3], other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("where, recomputed", [(True, 8), ([4], 4)])
def test_gradient_checkpointing_changes_no_gradient(where, recomputed):
    gradients = []
    for checkpointing, expected in ((False, 0), (where, recomputed)):
        vae = network()
        vae.checkpoint_gradients(checkpointing)
        assert sum(module.recompute for module in vae.modules() if hasattr(module, "recompute")) == expected
        outputs = vae(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.ones(2, 5), torch.tensor([1, 2]))
        sum(each.square().sum() for each in outputs).backward()
        gradients.append([parameter.grad for parameter in vae.parameters()])
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_levels_must_halve_the_image():
    with pytest.raises(ValueError, match="image_size 8 cannot be halved 4 times"):
        network(widths=[8] * 5)
