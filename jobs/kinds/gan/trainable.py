"""A GAN in training: what its losses depend on, the losses of both networks, previews."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffusion.baselines.adversarial import discriminator_losses, discriminator_terms, generator_losses
from jobs.data.dataset import ImageData
from jobs.data.pictures import as_images
from jobs.kinds.diffusion.build import conditions
from jobs.kinds.gan.generation import build_discriminator, build_generator
from jobs.kinds.gan.layer_costs import AVERAGED, DISCRIMINATOR
from jobs.kinds.gan.sections import GanSpec
from jobs.kinds.protocol import Draw, Examples, Network, Preview, UpdateRule, Weights
from jobs.randomness import generator_for
from jobs.spec.averages import average_names
from jobs.spec.kinds import MODEL

SHOWN = 16
BETAS = (0.0, 0.99)
"""Of Adam, for both networks: no momentum, since each network's loss changes with the other one (Karras et al. 2020, StyleGAN2;
Huang et al. 2024, R3GAN)."""


@dataclass(frozen=True)
class GanInputs:
    """n examples: real images [n, C, H, W]; latents [n, latent_size] for the update of each network; weights [n], all 1; labels
    int64 [n] or None, of the real images and of those made."""

    images: Tensor
    z_discriminator: Tensor
    z_generator: Tensor
    weights: Tensor
    labels: Tensor | None
    quarter: None = None


class GanTrainable:
    """The discriminator, updated first, and the generator; see jobs.kinds.protocol.Trainable."""

    averaged = AVERAGED
    updates = (DISCRIMINATOR, MODEL)

    def __init__(self, spec: GanSpec, device: torch.device):
        self.spec, self.device = spec, device
        self.networks = {MODEL: build_generator(spec).to(device), DISCRIMINATOR: build_discriminator(spec).to(device)}
        self.terms = {DISCRIMINATOR: discriminator_terms(spec.gan.r1_gamma, spec.gan.r2_gamma), MODEL: ["loss"]}
        self.update_rules = {
            MODEL: UpdateRule(spec.train.lr, BETAS),
            # Bare: DDP does not average the gradients of gradients in the penalties.
            DISCRIMINATOR: UpdateRule(spec.gan.discriminator_lr or spec.train.lr, BETAS, bare=True)}

    def inputs(self, examples: Examples, draw: Draw) -> GanInputs:
        size = (self.spec.gan.latent_size,)
        return GanInputs(examples.images, draw.normal("z of the discriminator's update", size),
                         draw.normal("z of the generator's update", size), torch.ones(len(examples.images), device=self.device),
                         examples.labels)

    def losses(self, update: str, networks: Mapping[str, Network], inputs: GanInputs) -> dict[str, Tensor]:
        settings, given = self.spec.gan, conditions(inputs.labels, self.device)
        generator, discriminator = networks[MODEL], networks[DISCRIMINATOR]
        if update == DISCRIMINATOR:
            with torch.no_grad():
                fake = generator(inputs.z_discriminator, **given)
            return discriminator_losses(discriminator, inputs.images, fake, settings.loss, settings.r1_gamma, settings.r2_gamma,
                                        given)
        return generator_losses(discriminator, inputs.images, generator(inputs.z_generator, **given), settings.loss, given)

    def learn(self, inputs: GanInputs, losses: Mapping[str, Tensor]) -> None:
        """Learn nothing."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore nothing, see `learn`."""

    def first_previews(self, data: ImageData) -> dict[str, Preview]:
        return {"data": Preview(np.array(data.images[:SHOWN]), columns=4)}

    @torch.no_grad()
    def previews(self, averages: Mapping[str, Weights]) -> dict[str, Preview]:
        """Return samples of equal latents at every call, so that only the training shows."""
        z = torch.randn(SHOWN, self.spec.gan.latent_size, device=self.device,
                        generator=generator_for(self.device, self.spec.train.seed, "preview"))
        labels = torch.arange(SHOWN) % self.spec.data.classes if self.spec.data.classes else None
        x = torch.func.functional_call(self.networks[MODEL], dict(averages[MODEL]), (z,), conditions(labels, self.device))
        average = average_names(self.spec.train.ema_rate, self.spec.train.ema_sigma_rel)[0]
        return {f"samples_ema_{average}": Preview(as_images(x), columns=4)}
