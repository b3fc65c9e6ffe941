"""The spec of a diffusion model that enlarges images: its own section, its own keys of `sample`, and what they rule out."""

from collections.abc import Collection
from typing import Annotated, Any

from pydantic import Field

from jobs.kinds.diffusion.sections import (
    DiffusionEvaluate,
    DiffusionSample,
    DiffusionSpec,
    DiffusionSpecAsWritten,
    DiffusionTrain,
    Model,
    resolved,
)
from jobs.spec.fields import Count, File, Fraction, OfAllSamplings, Section
from jobs.spec.references import SampledRun
from jobs.spec.sections import Contradiction

LOW_RES = "sample.low_res"


class Upsampler(Section):
    low_res_size: Annotated[Count, Field(le=65_536)]
    """Pixels of a side of the small images; divides data.image_size."""
    low_res_noise: Fraction = 0.0
    """Conditioning augmentation (Ho et al. 2022, Cascaded Diffusion Models): train on small images with Gaussian noise. Its level
    is drawn for each example from 0 to this one, and the network is told. A level is the deviation of the noise; the variance of
    the whole is kept. 0: no noise, and a network as published ones are."""


class LowRes(Section):
    """Where the small images are that samples are made of. One key is given."""

    run: SampledRun | None = None
    """A run: sample i is made of its main sample i."""
    path: File | None = None
    """A data set, or other samples; images of the large size are reduced."""


class UpsamplerSample(DiffusionSample):
    low_res: Annotated[LowRes | None, OfAllSamplings("samples of one run are made of the same small images")] = None
    """null: the images of data.path, reduced. A file of held-out images judges the upsampler alone better."""
    low_res_noise: Fraction = 0.0
    """The level of noise on the small images, at most upsampler.low_res_noise."""

    def identity(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """As for a diffusion model: small images are known by their sha256, not by the place where they are."""
        return super().identity({*exclude, "low_res"})


class UpsamplerSpecAsWritten(DiffusionSpecAsWritten):
    upsampler: Upsampler
    sample: UpsamplerSample = UpsamplerSample()


class UpsamplerSpec(UpsamplerSpecAsWritten, DiffusionSpec):
    model: Model
    train: DiffusionTrain
    sample: UpsamplerSample
    evaluate: DiffusionEvaluate


def resolve(written: UpsamplerSpecAsWritten) -> UpsamplerSpec:
    """Fill in what depends on other fields, as for a diffusion model."""
    return resolved(UpsamplerSpec, written)


def upsampler_contradictions(spec: UpsamplerSpec) -> list[Contradiction]:
    """Return the contradictions of the keys that only this kind has."""
    small, large, low_res = spec.upsampler.low_res_size, spec.data.image_size, spec.sample.low_res
    found = []
    if small >= large or large % small:
        found.append(("upsampler.low_res_size", f"{small} must be smaller than data.image_size {large}, and divide it"))
    if low_res is not None and (low_res.run is None) == (low_res.path is None):
        found.append((LOW_RES, "give either run: NAME, whose samples are enlarged, or path: FILE, a file with images"))
    if spec.sample.low_res_noise > spec.upsampler.low_res_noise:
        found.append(("sample.low_res_noise", f"{spec.sample.low_res_noise:g} is beyond upsampler.low_res_noise "
                      f"{spec.upsampler.low_res_noise:g}, up to which the network is trained"))
    return found
