"""The kind `upsampler`, as a login node knows it: a diffusion model of large images, given small ones."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from jobs.kinds.diffusion.kind import ReverseChainKind
from jobs.kinds.diffusion.layer_costs import embedding_layer, unet_layers
from jobs.kinds.diffusion.told_by_shapes import Shapes, told_of_unet
from jobs.kinds.upsampler.description import description
from jobs.kinds.upsampler.sections import (
    LOW_RES,
    UpsamplerSpec,
    UpsamplerSpecAsWritten,
    resolve,
    upsampler_contradictions,
)
from jobs.spec.kinds import MODEL, Description, Given, OwnNumber
from jobs.spec.layer_cost import LayerCost
from jobs.spec.metrics import Number
from jobs.spec.reading.yaml_text import yaml_text
from jobs.spec.sections import Contradiction, Spec

BITS, BITS_KEY = "bits/dim given low_res", "bits_per_dim_given_low_res"
"""Another number than bits/dim of a model that is given nothing, and much lower."""


class UpsamplerKind(ReverseChainKind[UpsamplerSpec]):
    model = "jobs.kinds.upsampler.model"
    written = UpsamplerSpecAsWritten
    resolved = UpsamplerSpec
    number_labels: Mapping[str, Number] = {
        BITS_KEY: Number(BITS, basis="variational bound over all timesteps, given the image reduced to low_res_size")}

    def resolve(self, written: UpsamplerSpecAsWritten) -> UpsamplerSpec:
        return resolve(written)

    def contradictions(self, spec: UpsamplerSpec) -> list[Contradiction]:
        return [*super().contradictions(spec), *upsampler_contradictions(spec)]

    def given(self, spec: UpsamplerSpec) -> Given:
        low_res, size = spec.sample.low_res, spec.upsampler.low_res_size
        if low_res is None:
            return Given(LOW_RES, None, spec.data.path, size)  # never by `evaluate`, which may change under samples
        return Given(f"{LOW_RES}.{'path' if low_res.run is None else 'run'}", low_res.run, low_res.path, size)

    def given_problems(self, spec: UpsamplerSpec, size: int, channels: int, classes: int | None, count: int) -> Iterator[str]:
        """Yield why images do not fit. Files may hold images of the large size, which are reduced; runs may not."""
        small, data = spec.upsampler.low_res_size, spec.data
        by_run = self.given(spec).run is not None
        if size != small and (by_run or size != data.image_size):
            also = "" if by_run else f", or {data.image_size}x{data.image_size}, which are reduced"
            yield f"has images of {size}x{size}, but upsampler.low_res_size is {small}: it takes images of {small}x{small}{also}"
        if channels != data.channels:
            yield f"has images of {channels} channels, but data.channels is {data.channels}"
        if data.class_cond and classes != data.classes:
            yield f"has {classes or 'no'} classes, and this run {data.classes}, of which each sample has that of its small image"
        if count < spec.sample.num_samples:
            yield f"has {count} images, but sample.num_samples is {spec.sample.num_samples}: each sample is made of one image"

    def guide_problems(self, spec: UpsamplerSpec, other: Spec) -> Iterator[Contradiction]:
        yield from super().guide_problems(spec, other)
        guide = self.guide(spec)
        if guide is not None and isinstance(other, UpsamplerSpec):
            for key in ("low_res_size", "low_res_noise"):
                ours, theirs = (yaml_text(getattr(each.upsampler, key)) for each in (spec, other))
                if ours != theirs:
                    yield "sample.guidance.run", (f"{guide.run} has upsampler.{key}: {theirs}, and this run has {ours}; a guide "
                                                  "must see the same small images")

    def description(self, spec: UpsamplerSpec) -> Description:
        return description(spec)

    def sampling_attributes(self, spec: UpsamplerSpec) -> dict[str, str | int]:
        low_res = spec.sample.low_res
        return super().sampling_attributes(spec) | ({"low_res": low_res.model_dump_json()} if low_res else {})

    def identity(self, spec: UpsamplerSpec) -> dict[str, dict]:
        return super().identity(spec) | {"upsampler": spec.upsampler.identity()}

    def layers(self, spec: UpsamplerSpec) -> dict[str, list[LayerCost]]:
        levels = [embedding_layer("level_embed", spec.model)] if spec.upsampler.low_res_noise else []
        return {MODEL: [*unet_layers(spec, images=2), *levels]}

    def numbers(self, spec: UpsamplerSpec) -> list[OwnNumber]:
        """As for a diffusion model; the number is that of the large image given the small one."""
        return [replace(number, name=BITS, key=BITS_KEY) for number in super().numbers(spec)]

    def told_by_weights(self, shapes: Shapes, written: Mapping[str, Any]) -> dict[str, Any]:
        return told_of_unet(shapes, written, images=2)

    def headline_settings(self, spec: UpsamplerSpec) -> dict[str, str | int | float]:
        return {**super().headline_settings(spec), "low_res_size": spec.upsampler.low_res_size}


KIND = UpsamplerKind()
