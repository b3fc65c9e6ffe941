"""The kind `gan`, as a login node knows it: a generative adversarial network, for comparison with diffusion."""

from collections.abc import Mapping
from typing import Any

from jobs.kinds.gan.description import description
from jobs.kinds.gan.layer_costs import (
    AVERAGED,
    DISCRIMINATOR,
    discriminator_layers,
    generator_layers,
    kept_elements,
    training_passes,
)
from jobs.kinds.gan.sections import GanSpec, GanSpecAsWritten, gan_contradictions, resolve
from jobs.kinds.one_evaluation import OneEvaluation
from jobs.spec.kinds import MODEL, Description, HeldOut, OwnNumber
from jobs.spec.layer_cost import LayerCost
from jobs.spec.metrics import Number
from jobs.spec.sections import Contradiction
from jobs.spec.stages import STAGES


class GanKind(OneEvaluation):
    model = "jobs.kinds.gan.model"
    written = GanSpecAsWritten
    resolved = GanSpec
    stages = STAGES
    number_labels: Mapping[str, Number] = {}
    averaged = AVERAGED

    def resolve(self, written: GanSpecAsWritten) -> GanSpec:
        return resolve(written)

    def contradictions(self, spec: GanSpec) -> list[Contradiction]:
        return gan_contradictions(spec)

    def identity(self, spec: GanSpec) -> dict[str, dict]:
        return {"model": spec.model.identity(), "gan": {"latent_size": spec.gan.latent_size}}

    def layers(self, spec: GanSpec) -> dict[str, list[LayerCost]]:
        return {MODEL: generator_layers(spec), DISCRIMINATOR: discriminator_layers(spec)}

    def training_passes(self, spec: GanSpec) -> dict[str, int]:
        return training_passes(spec)

    def kept_elements(self, spec: GanSpec) -> int:
        return kept_elements(spec)

    def numbers(self, spec: GanSpec) -> list[OwnNumber]:
        """A GAN has no likelihood."""
        return []

    def held_out(self, spec: GanSpec) -> list[HeldOut]:
        return []

    def told_by_weights(self, shapes: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def untold_by_weights(self, written: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, str]:
        return {}

    def headline_settings(self, spec: GanSpec) -> dict[str, Any]:
        return {"loss": spec.gan.loss, "r1_gamma": spec.gan.r1_gamma, "r2_gamma": spec.gan.r2_gamma,
                "num_channels": spec.model.num_channels}

    def description(self, spec: GanSpec) -> Description:
        return description(spec)


KIND = GanKind()
