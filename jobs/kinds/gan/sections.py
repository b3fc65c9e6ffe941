"""The spec of a GAN: its own sections, and what they rule out."""

from typing import Annotated

from pydantic import Field

from diffusion.baselines.games import GAMES
from jobs.kinds.diffusion.network_section import Multiplier, WidthsAsWritten, default_channel_mult, level_resolutions
from jobs.spec.fields import Count, OneOf, Section
from jobs.spec.sections import Contradiction, Evaluate, Spec, SpecAsWritten, contradictions, label_contradictions

Gamma = Annotated[float, Field(ge=0, le=1_000_000_000)]


class GanModelAsWritten(WidthsAsWritten):
    """The generator and the discriminator have equal levels."""

    num_res_blocks: Annotated[Count, Field(le=100)] = 1


class GanModel(GanModelAsWritten):
    channel_mult: list[Multiplier]
    """Empty where there is no default, which is a contradiction."""


class Gan(Section):
    loss: Annotated[str, OneOf(GAMES)] = "relativistic"
    """relativistic compares the i-th real image with the i-th generated one; non_saturating judges each by itself."""
    r1_gamma: Gamma = 0.1
    """Weight of the squared gradient of the discriminator at real images, halved; the larger the images, the larger. 0: none."""
    r2_gamma: Gamma = 0.1
    """As r1_gamma, at generated images."""
    latent_size: Annotated[Count, Field(le=65_536)] = 64
    """Normal numbers that a sample is made of."""
    discriminator_lr: Annotated[float, Field(gt=0)] | None = None
    """null: train.lr, which is the generator's. Warm-up and annealing are those of train."""


class GanSpecAsWritten(SpecAsWritten):
    model: GanModelAsWritten = GanModelAsWritten()
    gan: Gan = Gan()


class GanSpec(GanSpecAsWritten, Spec):
    model: GanModel
    evaluate: Evaluate


def resolve(written: GanSpecAsWritten) -> GanSpec:
    """Fill in channel_mult, which depends on the image size, and the evaluation's reference."""
    model = dict(written.model) | {"channel_mult": default_channel_mult(written.model, written.data)}
    evaluate = dict(written.evaluate) | {"reference": written.evaluate.reference or written.data.path}
    return GanSpec(**dict(written) | {"model": GanModel(**model), "evaluate": Evaluate(**evaluate)})


def gan_contradictions(spec: GanSpec) -> list[Contradiction]:
    """Return all contradictions of the spec, none where it is in order."""
    resolutions, found = level_resolutions(spec.model, spec.data)
    return [*found, *contradictions(spec, resolutions), *_refused(spec), *label_contradictions(spec)]


def _refused(spec: GanSpec) -> list[Contradiction]:
    """Return the settings of training and sampling that a GAN does not have."""
    train, sample = spec.train, spec.sample
    settings = [
        (train.compile, "train.compile", "the penalties of a GAN are gradients of gradients, which torch.compile does not have; "
         "leave compile out"),
        (train.precision == "fp16", "train.precision", "fp16 scales the loss, and the gradients within the penalties of a GAN "
         "overflow at that scale; use bf16 or fp32"),
        (train.gradient_checkpointing, "train.gradient_checkpointing", "the penalties of a GAN need the activations twice; leave "
         "it out, or give a train.microbatch that fits the memory"),
        (train.init_from, "train.init_from", "names weights of the generator alone, which a new discriminator would undo; leave "
         "it out"),
        (sample.compile, "sample.compile", "a sample of a GAN is a single evaluation, which takes less time than compiling; "
         "leave it out"),
        (sample.precision == "fp16", "sample.precision", "a GAN without normalisation may exceed the range of fp16; use bf16 or "
         "fp32")]
    return [(key, message) for given, key, message in settings if given]
