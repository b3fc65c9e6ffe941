"""A diffusion model of large images given small ones, in training: the pairs, and the previews."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from diffusion.networks.super_resolution import enlarged, noised_low_res, reduced
from jobs.data.dataset import open_data
from jobs.data.pictures import as_images
from jobs.kinds.diffusion.previews import quick_samples
from jobs.kinds.diffusion.trainable import DiffusionInputs, DiffusionTrainable
from jobs.kinds.protocol import Draw, Examples, Preview, Weights
from jobs.kinds.upsampler.build import beside, build_network, small_images
from jobs.kinds.upsampler.sections import UpsamplerSpec
from jobs.spec.kinds import MODEL

SHOWN = 8  # images in a row of the preview


@dataclass(frozen=True)
class UpsamplerInputs(DiffusionInputs):
    """As DiffusionInputs; low_res [n, C, s, s], with noise of these levels [n] where there is conditioning augmentation."""

    low_res: Tensor
    level: Tensor | None


class UpsamplerTrainable(DiffusionTrainable):
    """The U-Net that sees a small image, too; see jobs.kinds.protocol.Trainable."""

    spec: UpsamplerSpec
    build = staticmethod(build_network)

    def inputs(self, examples: Examples, draw: Draw) -> UpsamplerInputs:
        """Draw as a diffusion model does. The small image is the mean over squares of the large one, which may be mirrored."""
        own = super().inputs(examples, draw)
        low_res, level = reduced(examples.images, self.spec.upsampler.low_res_size), None
        if most := self.spec.upsampler.low_res_noise:
            level = draw.own(most * torch.rand(draw.batch_size, generator=draw.generator("low_res level", "cpu")))
            low_res = noised_low_res(low_res, level, draw.normal("low_res noise", low_res.shape[1:]))
        return UpsamplerInputs(**{field.name: getattr(own, field.name) for field in fields(own)}, low_res=low_res, level=level)

    def given(self, inputs: DiffusionInputs) -> dict[str, Tensor]:
        assert isinstance(inputs, UpsamplerInputs), "made by `inputs`"
        return super().given(inputs) | beside(self.spec, inputs.low_res, 0.0 if inputs.level is None else inputs.level)

    def previews(self, averages: Mapping[str, Weights]) -> dict[str, Preview]:
        """Return three rows: small images, what the network makes of them, and the large images that they come from.

        They are those of evaluate.nll_data where there are some, evenly over the file.
        """
        data = self.spec.data
        images = open_data(self.spec.evaluate.nll_data or data.path, data.image_size, data.channels, data.classes)
        rows = np.unique(np.linspace(0, len(images) - 1, SHOWN).round().astype(int))
        large = np.stack([images.images[row] for row in rows])
        labels = None if data.classes is None or images.labels is None else torch.from_numpy(images.labels[rows])
        low_res = small_images(self.spec, large, self.device)
        samples, strip = quick_samples(self.spec, self.network, averages[MODEL], self.device, labels,
                                       beside(self.spec, low_res, 0.0), len(rows))
        shown = np.concatenate([as_images(enlarged(low_res, data.image_size)), samples, large])
        return {self.samples_name: Preview(shown, columns=len(rows)), "denoising": Preview(strip, columns=len(strip))}
