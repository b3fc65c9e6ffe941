"""A classifier of noisy images in training: what its losses depend on, and the losses."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.gaussian import Network
from diffusion.losses import classification_losses, classification_terms
from diffusion.networks.dropout import random_numbers
from diffusion.objectives import timestep_sampler
from jobs.data.dataset import ImageData
from jobs.kinds.diffusion.previews import STRIP, noising_preview
from jobs.kinds.noisy_classifier.build import build_network, build_process
from jobs.kinds.noisy_classifier.sections import ClassifierSpec
from jobs.kinds.protocol import Draw, Examples, Preview, Weights
from jobs.spec.kinds import MODEL


@dataclass(frozen=True)
class ClassifierInputs:
    """n examples: x_start and noise [n, C, H, W]; labels, t and quarter int64 [n]; weights [n], all 1; with dropout, keys of the
    masks int64 [n], else None."""

    x_start: Tensor
    noise: Tensor
    labels: Tensor
    t: Tensor
    weights: Tensor
    quarter: Tensor
    dropout_keys: Tensor | None


class ClassifierTrainable:
    """The half U-Net, and the process that adds noise to its images; see jobs.kinds.protocol.Trainable."""

    def __init__(self, spec: ClassifierSpec, device: torch.device):
        self.spec = spec
        self.process = build_process(spec, device)
        self.timesteps = timestep_sampler("uniform", spec.diffusion.diffusion_steps)
        self.network = build_network(spec, spec.train.gradient_checkpointing).to(device)
        self.networks = {MODEL: self.network}
        self.averaged = self.updates = (MODEL,)
        self.terms = {MODEL: classification_terms(spec.data.num_classes or 0)}

    def inputs(self, examples: Examples, draw: Draw) -> ClassifierInputs:
        assert examples.labels is not None, "the spec has data.class_cond"
        noise = draw.normal("noise", examples.images.shape[1:])
        t, weights = map(draw.own, self.timesteps.sample(draw.batch_size, draw.generator("timesteps", "cpu")))
        keys = draw.keys("dropout") if self.spec.model.dropout else None
        return ClassifierInputs(examples.images, noise, examples.labels, t, weights, 4 * t // self.process.num_timesteps, keys)

    def losses(self, update: str, networks: Mapping[str, Network], inputs: ClassifierInputs) -> dict[str, Tensor]:
        keys = inputs.dropout_keys
        drawn = {} if keys is None else {"drawn": random_numbers(keys, self.network.draws)}
        return classification_losses(self.process, networks[update], inputs.x_start, inputs.t, inputs.noise, inputs.labels,
                                     **drawn)

    def learn(self, inputs: ClassifierInputs, losses: Mapping[str, Tensor]) -> None:
        """Learn nothing: every timestep is drawn equally often."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore nothing, see `learn`."""

    def first_previews(self, data: ImageData) -> dict[str, Preview]:
        return {"noising": Preview(noising_preview(self.process, data, self.spec.train.seed), columns=STRIP)}

    def previews(self, averages: Mapping[str, Weights]) -> dict[str, Preview]:
        return {}
