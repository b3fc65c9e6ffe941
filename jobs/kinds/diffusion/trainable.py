"""A diffusion model in training: what its losses depend on, the losses, previews."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffusion.gaussian import Network
from diffusion.losses import training_losses
from diffusion.networks.dropout import random_numbers
from diffusion.networks.unet import UNet
from diffusion.objectives import LOSSES, TIMESTEP_SAMPLERS, timestep_sampler
from jobs.data.dataset import ImageData
from jobs.kinds.diffusion.build import build_diffusion, build_mse_weights, build_network, conditions
from jobs.kinds.diffusion.previews import STRIP, denoising_preview, noising_preview
from jobs.kinds.diffusion.sections import DiffusionSpec
from jobs.kinds.protocol import Draw, Examples, Preview, Weights
from jobs.parallel.group import gather_rows
from jobs.spec.averages import average_names
from jobs.spec.kinds import MODEL


@dataclass(frozen=True)
class DiffusionInputs:
    """n examples: x_start and noise [n, C, H, W], t int64 [n], weights [n], quarter int64 [n]; labels and, with dropout, keys of
    the masks: int64 [n] or None. input_noise: the noise that x_t is made with, where that is another one than `noise`."""

    x_start: Tensor
    noise: Tensor
    input_noise: Tensor | None
    t: Tensor
    weights: Tensor
    quarter: Tensor
    labels: Tensor | None
    dropout_keys: Tensor | None


class DiffusionTrainable:
    """The U-Net and the process that it learns to reverse; see jobs.kinds.protocol.Trainable."""

    def __init__(self, spec: DiffusionSpec, device: torch.device):
        self.spec, self.device = spec, device
        self.diffusion = build_diffusion(spec, device)
        self.mse_weights = build_mse_weights(spec, self.diffusion)
        self.timestep_sampler = timestep_sampler(spec.train.schedule_sampler, spec.diffusion.diffusion_steps)
        self.network = self.build(spec, spec.train.gradient_checkpointing).to(device)
        self.networks = {MODEL: self.network}
        self.averaged = self.updates = (MODEL,)
        self.terms = {MODEL: LOSSES[spec.diffusion.loss].terms}

    build: ClassVar[Callable[..., UNet]] = staticmethod(build_network)
    """Returns the network of a spec. A kind whose network takes more than classes has a subclass with its own, and `given`."""

    def given(self, inputs: DiffusionInputs) -> dict[str, Tensor]:
        """Return what the network takes besides x and the time."""
        return conditions(inputs.labels, self.device)

    def inputs(self, examples: Examples, draw: Draw) -> DiffusionInputs:
        t, weights = self.timestep_sampler.sample(draw.batch_size, draw.generator("timesteps", "cpu"))
        noise, input_noise = draw.normal("noise", examples.images.shape[1:]), None
        if gamma := self.spec.diffusion.input_perturbation:
            input_noise = noise + gamma * draw.normal("input_perturbation", examples.images.shape[1:])
        t, weights = draw.own(t), draw.own(weights)
        keys = draw.keys("dropout") if self.spec.model.dropout else None
        quarter = 4 * t // self.diffusion.num_timesteps
        return DiffusionInputs(examples.images, noise, input_noise, t, weights, quarter,
                               self._with_null_labels(examples.labels, draw), keys)

    def _with_null_labels(self, labels: Tensor | None, draw: Draw) -> Tensor | None:
        """Return the labels, of which train.label_dropout, drawn for each example by itself, are the null class instead."""
        share = self.spec.train.label_dropout
        if labels is None or not share:
            return labels
        drawn = torch.rand(draw.batch_size, generator=draw.generator("label dropout", "cpu"))
        return labels.masked_fill(draw.own(drawn < share), self.spec.data.num_classes or 0)

    def losses(self, update: str, networks: Mapping[str, Network], inputs: DiffusionInputs) -> dict[str, Tensor]:
        keys = inputs.dropout_keys
        drawn = {} if keys is None else {"drawn": random_numbers(keys, self.network.draws)}
        return training_losses(self.diffusion, networks[update], inputs.x_start, inputs.t, inputs.noise, self.spec.diffusion.loss,
                               self.given(inputs) | drawn, mse_weights=self.mse_weights,
                               input_noise=inputs.input_noise)

    def learn(self, inputs: DiffusionInputs, losses: Mapping[str, Tensor]) -> None:
        """Show the losses of all ranks to the timestep sampler. Waits for the device, where the sampler learns at all."""
        if TIMESTEP_SAMPLERS[self.spec.train.schedule_sampler].reads_losses:
            self.timestep_sampler.update(gather_rows(inputs.t).cpu(), gather_rows(losses["loss"]).cpu())

    def state_dict(self) -> dict[str, Tensor]:
        return self.timestep_sampler.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.timestep_sampler.load_state_dict(state)

    def first_previews(self, data: ImageData) -> dict[str, Preview]:
        return {"noising": Preview(noising_preview(self.diffusion, data, self.spec.train.seed), columns=STRIP)}

    def previews(self, averages: Mapping[str, Weights]) -> dict[str, Preview]:
        samples, strip = denoising_preview(self.spec, self.network, averages[MODEL], self.device)
        return {self.samples_name: Preview(samples, columns=4), "denoising": Preview(strip, columns=len(strip))}

    @property
    def samples_name(self) -> str:
        """The name in TensorBoard of samples by the first average."""
        return f"samples_ema_{average_names(self.spec.train.ema_rate, self.spec.train.ema_sigma_rel)[0]}"
