"""A variational autoencoder in training: what its losses depend on, the losses, previews."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.baselines.elbo import active_latents, elbo_parts, kl_weight, log_likelihood, prior_kl
from jobs.data.dataset import ImageData
from jobs.kinds.diffusion.build import conditions
from jobs.kinds.protocol import Draw, Examples, Preview, Weights
from jobs.kinds.vae.build import build_network
from jobs.kinds.vae.previews import COLUMNS, originals, reconstructed, sampled
from jobs.kinds.vae.sections import VaeSpec, latent_shape
from jobs.spec.averages import average_names
from jobs.spec.kinds import MODEL


@dataclass(frozen=True)
class VaeInputs:
    """n examples: images [n, C, H, W]; noise of the latents [n, *latent]; kl_weight and weights [n], the latter all 1; labels
    int64 [n] or None."""

    images: Tensor
    noise: Tensor
    kl_weight: Tensor
    weights: Tensor
    labels: Tensor | None
    quarter: None = None


class VaeTrainable:
    """Encoder and decoder, one network that an update trains as a whole; see jobs.kinds.protocol.Trainable."""

    def __init__(self, spec: VaeSpec, device: torch.device):
        self.spec, self.device = spec, device
        self.network = build_network(spec, spec.train.gradient_checkpointing).to(device)
        self.networks = {MODEL: self.network}
        self.averaged = self.updates = (MODEL,)
        self.terms = {MODEL: ("loss", "elbo_reconstruction", "elbo_kl", "active_latents", "sigma")}
        self.shown: tuple[Tensor, Tensor | None] | None = None
        """The images whose reconstructions are shown, and their labels."""

    def inputs(self, examples: Examples, draw: Draw) -> VaeInputs:
        noise = draw.normal("latents", latent_shape(self.spec))
        ones = torch.ones(len(noise), device=noise.device)
        # Grey images have strides that also fit channels_last; convolutions would take that layout, and DDP copy their gradients.
        images = examples.images.clone(memory_format=torch.contiguous_format)
        return VaeInputs(images, noise, kl_weight(draw.step, self.spec.vae.kl_warmup) * ones, ones, examples.labels)

    def losses(self, update: str, networks: Mapping[str, Callable], inputs: VaeInputs) -> dict[str, Tensor]:
        """The negative ELBO with the weight of its KL part as far as that has grown. The parts are without this weight; both are
        in bits/dim if the decoder is discrete, else in bits of a density."""
        found = networks[update](inputs.images, inputs.noise, **conditions(inputs.labels, self.device))
        mean, log_variance, x_mean, log_scale = (each.float() for each in found)
        kl_each = prior_kl(mean, log_variance)
        reconstruction, kl = elbo_parts(log_likelihood(self.spec.vae.decoder, inputs.images, x_mean, log_scale), kl_each)
        return {"loss": reconstruction + inputs.kl_weight * kl, "elbo_reconstruction": reconstruction, "elbo_kl": kl,
                "active_latents": active_latents(kl_each), "sigma": log_scale.flatten(1).mean(dim=1).exp()}

    def learn(self, inputs: VaeInputs, losses: Mapping[str, Tensor]) -> None:
        """Learn nothing beside the network."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore nothing, see `learn`."""

    def first_previews(self, data: ImageData) -> dict[str, Preview]:
        self.shown = originals(self.spec, data, self.device)
        return {}

    def previews(self, averages: Mapping[str, Weights]) -> dict[str, Preview]:
        average = average_names(self.spec.train.ema_rate, self.spec.train.ema_sigma_rel)[0]
        found = {f"samples_ema_{average}": Preview(sampled(self.spec, self.network, averages[MODEL], self.device), COLUMNS // 2)}
        if self.shown is not None:
            found["reconstructions"] = Preview(reconstructed(self.network, averages[MODEL], *self.shown), COLUMNS)
        return found
