"""From the spec of a variational autoencoder to its network."""

from diffusion.baselines.decoders import DECODERS
from diffusion.networks.vae import VAE
from jobs.kinds.diffusion.network_section import widths
from jobs.kinds.vae.sections import VaeSpec


def build_network(spec: VaeSpec, gradient_checkpointing: bool | list[int] = False) -> VAE:
    """Return the encoder and the decoder of a spec, initialised from torch's global random state."""
    data, vae = spec.data, spec.vae
    network = VAE(image_size=data.image_size, channels=data.channels, widths=widths(spec.model),
                  num_res_blocks=spec.model.num_res_blocks, latent=vae.latent, latent_channels=vae.latent_channels,
                  scale_per_value=DECODERS[vae.decoder].scale_per_value, num_classes=data.classes)
    network.checkpoint_gradients(gradient_checkpointing)
    return network
