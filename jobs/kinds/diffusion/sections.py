"""The spec of a diffusion model: its own sections, its own keys of shared sections, and what they rule out."""

from collections.abc import Collection
from typing import Annotated, Any, TypeVar

from pydantic import Field

from diffusion.loss_weights import LOSS_WEIGHTS
from diffusion.objectives import LOSSES, TIMESTEP_SAMPLERS
from diffusion.parameterisation import PARAMETERISATIONS
from diffusion.respacing import lambdas_of, space_timesteps
from diffusion.samplers.table import SAMPLERS
from jobs.kinds.diffusion.guidance_section import ClassifierGuidance, Guidance
from jobs.kinds.diffusion.network_section import (
    Multiplier,
    NetworkAsWritten,
    default_channel_mult,
    network_resolutions,
)
from jobs.kinds.diffusion.process_section import Process, process_contradictions
from jobs.kinds.held_out import LikelihoodEvaluateAsWritten, held_out_contradictions
from jobs.spec.fields import Clipping, Count, File, Fraction, OfAllSamplings, OneOf, Respacing
from jobs.spec.sampling_list import listed
from jobs.spec.sections import (
    Contradiction,
    Evaluate,
    Sample,
    Spec,
    SpecAsWritten,
    Train,
    contradictions,
    label_contradictions,
)


class ModelAsWritten(NetworkAsWritten):
    younger = NetworkAsWritten.younger | {"num_heads_upsample"}
    num_heads_upsample: Annotated[Count, Field(le=65_536)] | None = None
    """num_heads on the way up; null: as num_heads. No checkpoint records this setting: a wrong one loads."""
    learn_sigma: bool | None = None
    """null: learned for the losses that train it (hybrid, vlb), fixed for simple."""


class Model(ModelAsWritten):
    channel_mult: list[Multiplier]
    """Empty where there is no default, which is a contradiction."""
    learn_sigma: bool


class Diffusion(Process):
    loss: Annotated[str, OneOf(LOSSES)] = "hybrid"
    loss_weight: Annotated[str, OneOf(LOSS_WEIGHTS)] = "none"
    """Of the mean squared error at each step. A learned variance keeps its own term, which has no weight."""
    min_snr_gamma: Annotated[float, Field(gt=0, le=1_000_000_000)] = 5.0
    """For loss_weight: min_snr alone."""
    p2_gamma: Annotated[float, Field(ge=0, le=10)] = 1.0
    """For loss_weight: p2 alone, as p2_k is."""
    p2_k: Annotated[float, Field(gt=0, le=1_000_000_000)] = 1.0
    input_perturbation: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Train on x_t with so much more noise, as a share of the noise that the network shall predict; 0: none."""
    predict: Annotated[str, OneOf(PARAMETERISATIONS)] = "epsilon"
    sigma_small: bool = False
    """Fixed variance only: the posterior's (small) instead of beta (large)."""


OF_TRAINING = ("loss", "loss_weight", "min_snr_gamma", "p2_gamma", "p2_k", "input_perturbation")
"""The keys of the section `diffusion` that no sample depends on besides its weights."""


class DiffusionTrain(Train):
    schedule_sampler: Annotated[str, OneOf(TIMESTEP_SAMPLERS)] = "uniform"
    label_dropout: Fraction = 0.0
    """Share of the examples whose class is replaced by the null class, so that the network also learns to sample without a
    class: for sample.guidance of kind classifier_free. 0: the network has no null class."""


class DiffusionSample(Sample):
    younger = Sample.younger | {"guidance", "dynamic_thresholding_ratio"}

    def identity(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """As Section.identity: a guide is known by its weights, not by the place where they are."""
        return super().identity(exclude) | ({"guidance": self.guidance.model_dump(exclude={"run", "at", "ema_rate"})}
                                            if self.guidance else {})

    sampler: Annotated[str, OneOf(SAMPLERS)] = "ancestral"
    ddim_eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    timestep_respacing: Respacing = ""
    clip_denoised: Clipping = True
    """Clip each predicted image to [-1, 1]; dynamic: to [-s, s], and divide it by s, where s is a quantile of its absolute
    values, and at least 1 (Saharia et al. 2022)."""
    dynamic_thresholding_ratio: Annotated[float, Field(gt=0, le=1)] = 0.995
    """That quantile. The bound in bits/dim clips to [-1, 1] then: only to that interval do the data belong."""
    cuda_graph: Annotated[bool, OfAllSamplings("how a machine computes is no way to sample")] = False
    """Record a whole reverse step for each chunk and replay it: for networks that a GPU finishes sooner than Python launches
    them. Without a GPU this setting changes nothing."""
    guidance: Guidance | None = None
    """Follow the class, or the difference to a weaker network, more closely than the network alone; null: do not."""


class DiffusionEvaluateAsWritten(LikelihoodEvaluateAsWritten):
    respacings: Annotated[list[Respacing], Field(max_length=100)] = []
    """Shorter chains to sample with besides the main one, each with ancestral and ddim, for a curve over their lengths."""


class DiffusionEvaluate(DiffusionEvaluateAsWritten, Evaluate):
    reference: File


class DiffusionSpecAsWritten(SpecAsWritten):
    model: ModelAsWritten = ModelAsWritten()
    diffusion: Diffusion = Diffusion()
    train: DiffusionTrain
    sample: DiffusionSample = DiffusionSample()
    evaluate: DiffusionEvaluateAsWritten = DiffusionEvaluateAsWritten()


class DiffusionSpec(DiffusionSpecAsWritten, Spec):
    model: Model
    train: DiffusionTrain
    sample: DiffusionSample
    evaluate: DiffusionEvaluate


AnyDiffusionSpec = TypeVar("AnyDiffusionSpec", bound=DiffusionSpec)


def resolve(written: DiffusionSpecAsWritten) -> DiffusionSpec:
    """Return the `resolved` spec."""
    return resolved(DiffusionSpec, written)


def resolved(kind: type[AnyDiffusionSpec], written: DiffusionSpecAsWritten) -> AnyDiffusionSpec:
    """Fill in what depends on other fields: channel_mult, learn_sigma and the evaluation's reference."""
    model, evaluate = dict(written.model), dict(written.evaluate)
    model["channel_mult"] = default_channel_mult(written.model, written.data)
    if written.model.learn_sigma is None:
        model["learn_sigma"] = LOSSES[written.diffusion.loss].trains_variance
    evaluate["reference"] = written.evaluate.reference or written.data.path
    return kind(**dict(written) | {"model": Model(**model), "evaluate": DiffusionEvaluate(**evaluate)})


def diffusion_contradictions(spec: DiffusionSpec) -> list[Contradiction]:
    """Return all contradictions of a diffusion spec, none where the spec is in order."""
    resolutions, found = network_resolutions(spec.model, spec.data, spec.model.num_heads_upsample)
    found += contradictions(spec, resolutions)
    found += _variance(spec) + _loss_weight(spec)
    return found + _chains(spec) + _label_dropout(spec) + held_out_contradictions(spec.evaluate) + _labels(spec)


def _variance(spec: DiffusionSpec) -> list[Contradiction]:
    name, learn_sigma, found = spec.diffusion.loss, spec.model.learn_sigma, []
    if learn_sigma and not LOSSES[name].trains_variance:
        found.append(("model.learn_sigma", f"loss: {name} does not train a variance; leave learn_sigma out, or use loss: hybrid"))
    if not learn_sigma and LOSSES[name].needs_learned_variance:
        found.append(("model.learn_sigma", f"loss: {name} trains the variance; leave learn_sigma out, or use loss: simple"))
    if learn_sigma and spec.diffusion.sigma_small:
        found.append(("diffusion.sigma_small", "chooses a fixed variance, but learn_sigma is on"))
    return found


def _loss_weight(spec: DiffusionSpec) -> list[Contradiction]:
    settings, found = spec.diffusion, []
    name, predict = settings.loss_weight, settings.predict
    if LOSS_WEIGHTS[name].of_x_start is not None:
        if not LOSSES[settings.loss].mse:
            found.append(("diffusion.loss_weight", f"{name} weighs the mean squared error, which loss: {settings.loss} does not "
                          "have; use loss: hybrid or simple, or loss_weight: none"))
        if PARAMETERISATIONS[predict].output_is_mean:
            found.append(("diffusion.loss_weight", f"{name} is not defined for predict: {predict}, the mean of x_(t-1); use "
                          "predict: epsilon, x_start or v, or loss_weight: none"))
    defaults = Diffusion()
    for other, weight in LOSS_WEIGHTS.items():
        found += [(f"diffusion.{key}", f"has an effect only with loss_weight: {other}, but loss_weight is {name}; leave it out")
                  for key in weight.settings if other != name and getattr(settings, key) != getattr(defaults, key)]
    return found


def _chains(spec: DiffusionSpec) -> list[Contradiction]:
    if found := process_contradictions(spec.diffusion):
        return found
    chains = [("sample.timestep_respacing", spec.sample.timestep_respacing),
              *(("evaluate.respacings", chain) for chain in spec.evaluate.respacings)]
    for key, chain in chains:
        try:
            kept_steps(spec, chain)
        except ValueError as error:
            found.append((key, str(error)))
    if not found:
        process, kept = spec.diffusion, kept_steps(spec, spec.sample.timestep_respacing)
        if unfit := SAMPLERS[spec.sample.sampler].unfit(lambdas_of(process.noise_schedule, process.diffusion_steps)[kept]):
            found.append(("sample.timestep_respacing", unfit))
    return found


def _label_dropout(spec: DiffusionSpec) -> list[Contradiction]:
    if has_null_class(spec) and not spec.data.class_cond:
        return [("train.label_dropout", "drops the classes of examples, but data.class_cond is off; set class_cond: true, or "
                 "leave label_dropout out")]
    return []


def kept_steps(spec: DiffusionSpec, timestep_respacing: str) -> list[int]:
    """Return the timesteps of the chain of that respacing, ascending. Raises ValueError where there is no such chain."""
    return space_timesteps(spec.diffusion.diffusion_steps, timestep_respacing, spec.diffusion.noise_schedule)


def has_null_class(spec: DiffusionSpec) -> bool:
    """Return whether the network of `spec` has a null class: the label data.num_classes, one more row of label_emb."""
    return spec.train.label_dropout > 0


def _labels(spec: DiffusionSpec) -> list[Contradiction]:
    guidances = [spec.sample.guidance, *(dict(each.changes).get("guidance") for each in listed(spec))]
    if any(isinstance(one, ClassifierGuidance) for one in guidances):
        return []
    return label_contradictions(spec, ", or a sampling with guidance of kind classifier")
