"""The kind `vae`, as a login node knows it: a variational autoencoder (Kingma & Welling 2014), a baseline."""

from collections.abc import Mapping
from typing import Any

from jobs.kinds.held_out import held_out_of
from jobs.kinds.one_evaluation import OneEvaluation
from jobs.kinds.vae.description import description
from jobs.kinds.vae.layer_costs import decoder_layers, encoder_layers
from jobs.kinds.vae.sections import OF_TRAINING, VaeSpec, VaeSpecAsWritten, resolve, vae_contradictions
from jobs.spec.kinds import MODEL, Description, HeldOut, OwnNumber
from jobs.spec.layer_cost import LayerCost
from jobs.spec.metrics import Number
from jobs.spec.samplings import WEIGHTS_BY, samplings
from jobs.spec.sections import Contradiction
from jobs.spec.stages import STAGES

ELBO, ELBO_KEY = "elbo bits/dim", "elbo_bits_per_dim"


class VaeKind(OneEvaluation):
    model = "jobs.kinds.vae.model"
    written = VaeSpecAsWritten
    resolved = VaeSpec
    stages = STAGES
    number_labels = {ELBO_KEY: Number(ELBO, basis="evidence lower bound: the negative log-likelihood is at most so much")}

    def resolve(self, written: VaeSpecAsWritten) -> VaeSpec:
        return resolve(written)

    def contradictions(self, spec: VaeSpec) -> list[Contradiction]:
        return vae_contradictions(spec)

    def sampling_facts(self, spec: VaeSpec) -> dict[str, Any]:
        return super().sampling_facts(spec) | self.sampling_attributes(spec)

    def sampling_attributes(self, spec: VaeSpec) -> dict[str, Any]:
        return {"a_sample_is": "the decoder's mean, rounded, at latents of the prior; no draw of pixels"}

    def identity(self, spec: VaeSpec) -> dict[str, dict]:
        return {"model": spec.model.identity(), "vae": spec.vae.identity(exclude=OF_TRAINING)}

    def layers(self, spec: VaeSpec) -> dict[str, list[LayerCost]]:
        """The decoder alone samples. The encoder, the other half of the one network that is trained, counts beside it."""
        return {MODEL: decoder_layers(spec), "encoder": encoder_layers(spec)}

    def numbers(self, spec: VaeSpec) -> list[OwnNumber]:
        """The ELBO of the weights of each sampling. One pass is that of the encoder, the other that of the decoder."""
        if not spec.evaluate.nll_examples:
            return []
        each = [sampling for sampling in samplings(spec) if {key for key, _ in sampling.changes} <= {*WEIGHTS_BY}]
        return [OwnNumber(ELBO, ELBO_KEY, sampling.step, sampling.changes, spec.evaluate.nll_examples, spec.evaluate.batch_size,
                          passes=2) for sampling in each]

    def held_out(self, spec: VaeSpec) -> list[HeldOut]:
        return held_out_of(spec.evaluate)

    def told_by_weights(self, shapes: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def untold_by_weights(self, written: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, str]:
        return {}

    def description(self, spec: VaeSpec) -> Description:
        return description(spec)

    def headline_settings(self, spec: VaeSpec) -> dict[str, str | int]:
        return {"latent": spec.vae.latent, "latent_channels": spec.vae.latent_channels, "decoder": spec.vae.decoder,
                "num_channels": spec.model.num_channels}


KIND = VaeKind()
