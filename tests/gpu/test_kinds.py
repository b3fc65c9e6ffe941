"""Every kind of model trains on the GPU, with kernels that repeat only."""

import json

import pytest
import torch
from on_gpu import needs_gpu
from small_classifier import CLASSIFIER_SPEC
from small_gan import GAN_SPEC
from small_runs import SMALL_SPEC
from small_upsampler import UPSAMPLER_SPEC
from small_vae import VAE_SPEC

from jobs.data.dataset import open_data
from jobs.spec.kinds import KINDS
from jobs.spec.reading.file import load
from jobs.training.batches import Batches
from jobs.training.state import new_state
from jobs.training.step import train_step

# DDP copies gradients of convolutions from one channel, and warns of that.
pytestmark = [needs_gpu, pytest.mark.filterwarnings("ignore:Grad strides do not match")]
SPECS = {"diffusion": SMALL_SPEC, "noisy_classifier": CLASSIFIER_SPEC, "gan": GAN_SPEC, "upsampler": UPSAMPLER_SPEC,
         "vae": VAE_SPEC}


def test_all_kinds_are_here():
    assert set(SPECS) == set(KINDS)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", SPECS)
def test_two_trainings_end_with_equal_bits(group, tmp_path, kind, precision):
    (tmp_path / "spec.yaml").write_text(json.dumps(SPECS[kind]))
    spec = load(tmp_path / "spec.yaml", [f"train.precision={precision}"]).runs[0].spec
    data = open_data("digits", 8, 1, 10)

    def weights() -> list[torch.Tensor]:
        state = new_state(spec, group)
        for step, examples in enumerate(Batches(spec, data, group)(0, 3)):
            losses = train_step(state, examples, step).losses
        assert all(torch.isfinite(values).all() for values in losses.values())
        return [parameter.detach().clone() for part in state.parts.values() for parameter in part.parameters]
    assert all(torch.equal(one, other) for one, other in zip(weights(), weights(), strict=True))
