"""The kind `diffusion`, as a login node knows it."""

from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

from diffusion.samplers.table import SAMPLERS
from jobs.kinds.diffusion.description.algorithms import description
from jobs.kinds.diffusion.guidance_rules import guidance_contradictions, guide_of, guide_problems, guided_evaluations
from jobs.kinds.diffusion.layer_costs import unet_layers
from jobs.kinds.diffusion.sections import (
    OF_TRAINING,
    DiffusionSpec,
    DiffusionSpecAsWritten,
    diffusion_contradictions,
    kept_steps,
    resolve,
)
from jobs.kinds.diffusion.told_by_shapes import Shapes, told_of_unet, untold_by_weights
from jobs.kinds.held_out import held_out_of
from jobs.spec.kinds import MODEL, Changes, Description, Guide, HeldOut, OwnNumber
from jobs.spec.layer_cost import LayerCost
from jobs.spec.metrics import Number
from jobs.spec.samplings import WEIGHTS_BY, samplings, with_changes, with_sampling
from jobs.spec.sections import Contradiction, Spec, SpecAsWritten
from jobs.spec.stages import STAGES

BITS, BITS_KEY = "bits/dim", "bits_per_dim"
CHAIN = ("sampler", "timestep_respacing")


ChainSpec = TypeVar("ChainSpec", bound=DiffusionSpec)


class ReverseChainKind(Generic[ChainSpec]):
    """What all kinds share whose samples are the ends of a reverse chain."""

    model: str
    written: type[SpecAsWritten]
    resolved: type[Spec]
    stages = STAGES
    number_labels: Mapping[str, Number] = {BITS_KEY: Number(BITS, basis="variational bound over all timesteps")}

    def contradictions(self, spec: ChainSpec) -> list[Contradiction]:
        return [*diffusion_contradictions(spec), *guidance_contradictions(spec)]

    def samplings(self, spec: ChainSpec) -> list[Changes]:
        """Return each chain of evaluate.respacings, with ancestral and ddim."""
        return [(("sampler", sampler), ("timestep_respacing", chain))
                for chain in spec.evaluate.respacings for sampler in ("ancestral", "ddim")]

    def steps(self, spec: ChainSpec) -> int:
        return chain_length(spec, spec.sample.timestep_respacing)

    def evaluations(self, spec: ChainSpec) -> int:
        return SAMPLERS[spec.sample.sampler].evaluations(self.steps(spec)) + guided_evaluations(spec)

    def guide(self, spec: ChainSpec) -> Guide | None:
        return guide_of(spec)

    def guide_problems(self, spec: ChainSpec, other: Spec) -> Iterable[Contradiction]:
        return guide_problems(spec, other)

    def shortened(self, spec: ChainSpec, steps: int) -> ChainSpec:
        """Return `spec` with a chain of so many steps: even in log-SNR for the solvers, which are made for it."""
        chain = str(steps) if spec.sample.sampler in ("ancestral", "ddim") else f"logsnr{steps}"
        chain_length(spec, chain)  # raises ValueError
        return with_changes(spec, (("timestep_respacing", chain),))

    def records_steps(self, spec: ChainSpec) -> bool:
        return spec.sample.cuda_graph

    def sampling_facts(self, spec: ChainSpec) -> dict[str, str | int]:
        return {"sampler": spec.sample.sampler, "timestep_respacing": spec.sample.timestep_respacing,
                "sampling_steps": self.steps(spec)}

    def sampling_attributes(self, spec: ChainSpec) -> dict[str, str | int]:
        return {"sampler": spec.sample.sampler, "timestep_respacing": spec.sample.timestep_respacing,
                "diffusion_steps": spec.diffusion.diffusion_steps,
                **({"guidance": spec.sample.guidance.model_dump_json()} if spec.sample.guidance else {})}

    def identity(self, spec: ChainSpec) -> dict[str, dict]:
        return {"model": spec.model.identity(exclude={"dropout"}), "diffusion": spec.diffusion.identity(exclude=OF_TRAINING)}

    def layers(self, spec: ChainSpec) -> dict[str, list[LayerCost]]:
        return {MODEL: unet_layers(spec)}

    def numbers(self, spec: ChainSpec) -> list[OwnNumber]:
        """Bits/dim over the full chain, then over that of each ancestral sampling: a sample of DDIM has no likelihood.

        A sampling that changes more than the chain and the weights has no bits/dim of its own.
        """
        if not spec.evaluate.nll_examples:
            return []
        each = [(sampling.step, with_sampling(spec, sampling).sample, {key: value for key, value in sampling.changes
                                                                      if key not in CHAIN}) for sampling in samplings(spec)]
        chains: dict[tuple[int, str, Changes], None] = {(spec.train.iterations, "", ()): None}
        chains |= {(step, sample.timestep_respacing, tuple(weights.items())): None for step, sample, weights in each
                   if SAMPLERS[sample.sampler].has_likelihood and weights.keys() <= set(WEIGHTS_BY)}
        return [OwnNumber(BITS, BITS_KEY, step, (("sampler", "ancestral"), ("timestep_respacing", chain), *weights),
                          spec.evaluate.nll_examples, spec.evaluate.batch_size, chain_length(spec, chain))
                for step, chain, weights in chains]

    def held_out(self, spec: ChainSpec) -> list[HeldOut]:
        return held_out_of(spec.evaluate)

    def told_by_weights(self, shapes: Shapes, written: Mapping[str, Any]) -> dict[str, Any]:
        return told_of_unet(shapes, written)

    def untold_by_weights(self, written: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, str]:
        return untold_by_weights(written, told, decoder=True)

    def headline_settings(self, spec: ChainSpec) -> dict[str, str | int | float]:
        return {"noise_schedule": spec.diffusion.noise_schedule, "loss": spec.diffusion.loss,
                "diffusion_steps": spec.diffusion.diffusion_steps, "num_channels": spec.model.num_channels,
                "dropout": spec.model.dropout}

    def description(self, spec: ChainSpec) -> Description:
        return description(spec)


class DiffusionKind(ReverseChainKind[DiffusionSpec]):
    model = "jobs.kinds.diffusion.model"
    editing = "jobs.kinds.diffusion.editing"
    written = DiffusionSpecAsWritten
    resolved = DiffusionSpec

    def resolve(self, written: DiffusionSpecAsWritten) -> DiffusionSpec:
        return resolve(written)


def chain_length(spec: DiffusionSpec, timestep_respacing: str) -> int:
    """Return the steps of the chain of that respacing."""
    return len(kept_steps(spec, timestep_respacing))


KIND = DiffusionKind()
