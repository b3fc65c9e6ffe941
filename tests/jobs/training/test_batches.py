"""The batches of a run and what a diffusion model's losses depend on: each rank's share, for any number of ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.timestep_samplers import LossSecondMomentSampler
from jobs.data.dataset import ImageData, load_batch, open_data
from jobs.data.order import batch_indices, crop_windows, flip_mask
from jobs.data.pictures import cropped, to_x
from jobs.kinds.diffusion.build import conditions
from jobs.kinds.diffusion.sections import DiffusionSpec, DiffusionSpecAsWritten, resolve
from jobs.kinds.diffusion.trainable import DiffusionInputs, DiffusionTrainable
from jobs.kinds.protocol import Draw, microbatches
from jobs.parallel.group import Group
from jobs.training.batches import Batches, share_of

DIGITS = open_data("digits", 8, 1, 10)
CPU = torch.device("cpu")


def trainable_of(spec: DiffusionSpec) -> DiffusionTrainable:
    torch.manual_seed(0)
    return DiffusionTrainable(spec, CPU)


def inputs_of(trainable: DiffusionTrainable, data: ImageData, rank: int, world_size: int, start: int, stop: int,
              on_device: bool | None = None) -> list[DiffusionInputs]:
    """Return what the losses of the steps `start` to `stop` - 1 depend on, on one rank."""
    spec, group = trainable.spec, Group(rank, world_size, CPU, None)
    share = share_of(group, spec.train.batch_size)
    return [trainable.inputs(examples, Draw(spec.train.seed, step, spec.train.batch_size, share, CPU))
            for step, examples in enumerate(Batches(spec, data, group, on_device)(start, stop), start)]


@settings(max_examples=25, deadline=None)
@given(world_size=st.sampled_from([1, 2, 3, 4]), step=st.integers(0, 400), seed=st.integers(0, 2 ** 31),
       class_cond=st.booleans(), random_flip=st.booleans(), random_crop=st.booleans(), warm=st.booleans())
def test_the_ranks_shares_make_up_one_batch(world_size, step, seed, class_cond, random_flip, random_crop, warm):
    spec = resolve(DiffusionSpecAsWritten.model_validate({
        "name": "x", "data": {"path": "digits", "image_size": 8, "channels": 1, "class_cond": class_cond, "num_classes": 10,
                              "random_flip": random_flip, "random_crop": random_crop},
        "model": {"num_channels": 4, "channel_mult": [1], "attention_resolutions": [], "num_heads": 1},
        "diffusion": {"diffusion_steps": 20, "input_perturbation": 0.1},
        "train": {"iterations": 1000, "batch_size": 12, "seed": seed}}))
    trainable = trainable_of(spec)
    if warm:
        trainable.timestep_sampler = LossSecondMomentSampler(20, 2)
        trainable.timestep_sampler.update(torch.arange(20).repeat(2), torch.linspace(0.1, 9, 40))

    def batch(rank: int, world_size: int, start: int = step, on_device: bool | None = None):
        return inputs_of(trainable, DIGITS, rank, world_size, start, step + 1, on_device)[-1]

    shares, whole = [batch(rank, world_size) for rank in range(world_size)], batch(0, 1)
    assert {len(share.t) for share in shares} == {12 // world_size}
    for name in ("x_start", "noise", "input_noise", "t", "weights", "quarter"):
        joined = torch.cat([getattr(share, name) for share in shares])
        torch.testing.assert_close(joined, getattr(whole, name), rtol=0, atol=0)
    assert whole.quarter.tolist() == [t // 5 for t in whole.t.tolist()]

    indices = batch_indices(len(DIGITS), 12, step, seed)
    expected = load_batch(DIGITS, indices)
    if random_flip:
        mask = flip_mask(12, step, seed)
        expected[mask] = expected[mask][..., ::-1]
    expected = to_x(torch.from_numpy(expected))
    if random_crop:
        expected = cropped(expected, torch.from_numpy(crop_windows(12, step, seed, 8)))
    torch.testing.assert_close(whole.x_start, expected, rtol=0, atol=0)
    if class_cond:
        assert torch.cat([share.labels for share in shares]).tolist() == DIGITS.labels[indices].tolist()
    else:
        assert whole.labels is None and conditions(whole.labels, CPU) == {}

    for rank, share in enumerate(shares):
        kept = batch(rank, world_size, on_device=True)
        for name in ("x_start", "noise", "t", "weights") + ("labels",) * class_cond:
            assert torch.equal(getattr(kept, name), getattr(share, name)), name

    earlier = batch(0, world_size, start=max(0, step - 2))
    torch.testing.assert_close(earlier.noise, shares[0].noise, rtol=0, atol=0)
    torch.testing.assert_close(earlier.x_start, shares[0].x_start, rtol=0, atol=0)


def test_colour_images_kept_on_the_device_equal_images_sent_to_the_device():
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)
    data = ImageData(images, None, [], "random")
    spec = resolve(DiffusionSpecAsWritten.model_validate({
        "name": "x", "data": {"path": "random", "image_size": 8, "random_flip": True},
        "train": {"iterations": 9, "batch_size": 4}}))
    sent, kept = (list(Batches(spec, data, Group(0, 1, CPU, None), on_device)(0, 4)) for on_device in (False, True))
    for ours, theirs in zip(kept, sent, strict=True):
        assert torch.equal(ours.images, theirs.images) and ours.images.stride() == theirs.images.stride()


def test_noise_timesteps_and_order_differ_between_steps_and_seeds(make_run):
    def first_two(seed):
        return inputs_of(trainable_of(make_run(f"train.seed={seed}", folder=f"seed{seed}").spec), DIGITS, 0, 1, 0, 2)
    batches = first_two(0) + first_two(1)
    for index, one in enumerate(batches):
        for other in batches[:index]:
            assert not torch.equal(one.noise, other.noise) and not torch.equal(one.t, other.t)
            assert not torch.equal(one.x_start, other.x_start)


@pytest.mark.parametrize("labels", [None, torch.arange(6)])
def test_microbatches_divide_every_tensor_of_the_inputs(labels):
    columns = {"x_start": torch.randn(6, 1, 2, 2), "noise": torch.randn(6, 1, 2, 2), "t": torch.arange(6),
               "input_noise": torch.randn(6, 1, 2, 2) if labels is not None else None, "weights": torch.rand(6),
               "quarter": torch.arange(6) % 4, "labels": labels,
               "dropout_keys": torch.arange(6) if labels is not None else None}
    parts = microbatches(DiffusionInputs(**columns), 2)
    assert len(parts) == 3
    for name, column in columns.items():
        found = [getattr(part, name) for part in parts]
        if column is None:
            assert found == [None] * 3
        else:
            assert [len(each) for each in found] == [2, 2, 2] and torch.equal(torch.cat(found), column)
