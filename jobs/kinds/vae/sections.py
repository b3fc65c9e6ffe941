"""The spec of a variational autoencoder: its own sections, and what they rule out."""

from typing import Annotated

from pydantic import Field

from diffusion.baselines.decoders import DECODERS, LATENTS
from jobs.kinds.diffusion.network_section import Multiplier, WidthsAsWritten, default_channel_mult, level_resolutions
from jobs.kinds.held_out import LikelihoodEvaluateAsWritten, held_out_contradictions
from jobs.spec.fields import Count, CountOrZero, File, OneOf, Section
from jobs.spec.sections import Contradiction, Evaluate, Spec, SpecAsWritten, contradictions, label_contradictions

LATENT_CHANNELS = {"spatial": 16, "vector": 128}
"""The default by kind of latent."""
OF_TRAINING = ("kl_warmup",)
"""The keys of the section `vae` that no sample depends on besides its weights."""


class VaeModelAsWritten(WidthsAsWritten):
    """Encoder and decoder are mirror images: these keys say both."""

    num_channels: Annotated[Count, Field(le=65_536)] = 64
    num_res_blocks: Annotated[Count, Field(le=100)] = 2


class VaeModel(VaeModelAsWritten):
    channel_mult: list[Multiplier]
    """Empty where there is no default, which is a contradiction."""


class VaeAsWritten(Section):
    latent: Annotated[str, OneOf(LATENTS)] = "vector"
    """One vector for an image, or spatial: a map at the resolution of the deepest level."""
    latent_channels: Annotated[Count, Field(le=65_536)] | None = None
    """Length of the vector, or channels of the map; null: 128, or 16."""
    decoder: Annotated[str, OneOf(DECODERS)] = "discretized_gaussian"
    """Probabilities of grey levels, with a sigma for each value: the ELBO is in bits/dim. Or a density with one learned sigma."""
    kl_warmup: CountOrZero = 0
    """Training steps in which the weight of the KL part grows evenly from 0 to 1; 0: it is 1 from the first step on."""


class Vae(VaeAsWritten):
    latent_channels: Annotated[Count, Field(le=65_536)]


class VaeEvaluate(LikelihoodEvaluateAsWritten, Evaluate):
    reference: File


class VaeSpecAsWritten(SpecAsWritten):
    model: VaeModelAsWritten = VaeModelAsWritten()
    vae: VaeAsWritten = VaeAsWritten()
    evaluate: LikelihoodEvaluateAsWritten = LikelihoodEvaluateAsWritten()


class VaeSpec(VaeSpecAsWritten, Spec):
    model: VaeModel
    vae: Vae
    evaluate: VaeEvaluate


def resolve(written: VaeSpecAsWritten) -> VaeSpec:
    """Fill in what depends on other fields: channel_mult, latent_channels and the evaluation's reference."""
    model = dict(written.model) | {"channel_mult": default_channel_mult(written.model, written.data)}
    vae = dict(written.vae) | {"latent_channels": written.vae.latent_channels or LATENT_CHANNELS[written.vae.latent]}
    evaluate = dict(written.evaluate) | {"reference": written.evaluate.reference or written.data.path}
    return VaeSpec(**dict(written) | {"model": VaeModel(**model), "vae": Vae(**vae), "evaluate": VaeEvaluate(**evaluate)})


def latent_shape(spec: VaeSpec) -> tuple[int, ...]:
    """Return the shape of the latents of one image."""
    side = spec.data.image_size >> len(spec.model.channel_mult) - 1
    return (spec.vae.latent_channels,) if spec.vae.latent == "vector" else (spec.vae.latent_channels, side, side)


def vae_contradictions(spec: VaeSpec) -> list[Contradiction]:
    """Return all contradictions of the spec, none where it is in order."""
    resolutions, found = level_resolutions(spec.model, spec.data)
    found += contradictions(spec, resolutions) + held_out_contradictions(spec.evaluate)
    if spec.evaluate.nll_examples and not DECODERS[spec.vae.decoder].discrete:
        found.append(("evaluate.nll_examples", f"decoder: {spec.vae.decoder} has the ELBO of a density, which compares with no "
                      "bits/dim; use vae.decoder: discretized_gaussian, or leave nll_examples out"))
    if spec.vae.kl_warmup > spec.train.iterations:
        found.append(("vae.kl_warmup", f"{spec.vae.kl_warmup} steps are more than train.iterations {spec.train.iterations}: the "
                      "KL part would never have its full weight, and the decoder would not know the latents of samples"))
    if spec.sample.compile:
        found.append(("sample.compile", "has no effect: a sample is one evaluation of the decoder; leave it out"))
    return found + label_contradictions(spec)
