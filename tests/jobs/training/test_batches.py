"""The batches of a run: each rank's share, and what they depend on."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.timestep_samplers import LossSecondMomentSampler, UniformSampler
from jobs.data.dataset import ImageData, load_batch, open_data
from jobs.data.order import batch_indices, flip_mask
from jobs.data.pictures import to_x
from jobs.kinds.diffusion.build import build_timestep_sampler
from jobs.kinds.diffusion.sections import Diffusion, DiffusionSpecAsWritten, DiffusionTrain, resolve
from jobs.parallel.group import Group
from jobs.spec.sections import Data
from jobs.training.batches import Batches

DIGITS = open_data("digits", 8, 1, 10)
CPU = torch.device("cpu")


@settings(max_examples=25, deadline=None)
@given(world_size=st.sampled_from([1, 2, 3, 4]), step=st.integers(0, 400), seed=st.integers(0, 2 ** 31),
       class_cond=st.booleans(), random_flip=st.booleans(), warm=st.booleans())
def test_the_ranks_shares_make_up_the_same_batch(world_size, step, seed, class_cond, random_flip, warm):
    spec = resolve(DiffusionSpecAsWritten(
        name="x", data=Data(path="digits", image_size=8, channels=1, class_cond=class_cond, num_classes=10,
                            random_flip=random_flip),
        diffusion=Diffusion(diffusion_steps=20), train=DiffusionTrain(iterations=1000, batch_size=12, seed=seed)))
    sampler = UniformSampler(20)
    if warm:
        sampler = LossSecondMomentSampler(20, 2)
        sampler.update(torch.arange(20).repeat(2), torch.linspace(0.1, 9, 40))

    def batch(rank: int, world_size: int, start: int = step, on_device: bool | None = None):
        *_, last = Batches(spec, DIGITS, sampler, Group(rank, world_size, CPU, None), on_device)(start, step + 1)
        return last

    shares, whole = [batch(rank, world_size) for rank in range(world_size)], batch(0, 1)
    assert {len(share.t) for share in shares} == {12 // world_size}
    for name in ("x_start", "noise", "t", "weights"):
        joined = torch.cat([getattr(share, name) for share in shares])
        torch.testing.assert_close(joined, getattr(whole, name), rtol=0, atol=0)

    indices = batch_indices(len(DIGITS), 12, step, seed)
    expected = load_batch(DIGITS, indices, flip_mask(12, step, seed) if random_flip else None)
    torch.testing.assert_close(whole.x_start, to_x(torch.from_numpy(expected)), rtol=0, atol=0)
    if class_cond:
        assert torch.cat([share.labels for share in shares]).tolist() == DIGITS.labels[indices].tolist()
    else:
        assert whole.labels is None and whole.model_kwargs == {}

    for rank, share in enumerate(shares):
        kept = batch(rank, world_size, on_device=True)
        for name in ("x_start", "noise", "t", "weights") + ("labels",) * class_cond:
            assert torch.equal(getattr(kept, name), getattr(share, name)), name

    earlier = batch(0, world_size, start=max(0, step - 2))
    torch.testing.assert_close(earlier.noise, shares[0].noise, rtol=0, atol=0)
    torch.testing.assert_close(earlier.x_start, shares[0].x_start, rtol=0, atol=0)


def test_colour_images_kept_on_the_device_come_as_those_that_are_sent():
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)
    data = ImageData(images, None, [], "random")
    spec = resolve(DiffusionSpecAsWritten(name="x", data=Data(path="random", image_size=8, random_flip=True),
                        train=DiffusionTrain(iterations=9, batch_size=4)))
    sent, kept = (list(Batches(spec, data, UniformSampler(20), Group(0, 1, CPU, None), on_device)(0, 4))
                  for on_device in (False, True))
    for ours, theirs in zip(kept, sent, strict=True):
        assert torch.equal(ours.x_start, theirs.x_start) and ours.x_start.stride() == theirs.x_start.stride()


def test_noise_timesteps_and_order_differ_between_steps_and_seeds(make_run):
    def first_two(seed):
        spec = make_run(f"train.seed={seed}", folder=f"seed{seed}").spec
        return list(Batches(spec, DIGITS, build_timestep_sampler(spec), Group(0, 1, CPU, None))(0, 2))
    batches = first_two(0) + first_two(1)
    for index, one in enumerate(batches):
        for other in batches[:index]:
            assert not torch.equal(one.noise, other.noise) and not torch.equal(one.t, other.t)
            assert not torch.equal(one.x_start, other.x_start)
