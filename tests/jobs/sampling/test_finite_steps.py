"""Samples that are not finite fail with their chunk and step, however they came about, and are never written."""

import pytest
import torch
from noisy_runs import noisy_weights, same, save_weights, trained
from small_runs import SMALL_SPEC

from diffusion.samplers.table import SAMPLERS
from jobs.errors import StageFailed
from jobs.sampling.finite_steps import CHECK_EVERY
from jobs.sampling.partial import Partial, read_partial, save_partial


def failing_at(monkeypatch, value, step, chunk_call=0, channel=0):
    """Let the network give `value` once, in the given reverse step of every chunk after the first `chunk_call`."""
    from diffusion.networks.unet import UNet
    along = UNet.along
    chunks = []

    def broken(self, times, **model_kwargs):
        at_step = along(self, times, **model_kwargs)
        chunks.append(1)
        late = len(chunks) > chunk_call

        def call(x, number):
            output = at_step(x, number)
            if late and int(number) == step:
                output = output.clone()
                output[-1, channel, 3, 5] = value
            return output
        return call
    monkeypatch.setattr(UNet, "along", broken)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_step_and_the_chunk_are_named(make_run, alone, monkeypatch, sampler, value):
    run = trained(make_run(f"sample.sampler={sampler}"))
    failing_at(monkeypatch, value, step=7, chunk_call=1)
    with pytest.raises(StageFailed) as failure:
        alone(run, "sample")
    assert failure.value.kind == "not finite"
    first = 8 if sampler == "heun" else 7  # each step of heun looks ahead to the next
    assert str(failure.value).startswith(f"{run.samples}: chunk 1 is not finite since reverse step {first}: ")
    assert sorted(path.name for path in run.samples.iterdir()) == ["chunk-00000.h5"]


@pytest.mark.parametrize("overrides, channel", [
    (("diffusion.predict=x_start",), 0), (("diffusion.predict=x_prev",), 0), (("diffusion.predict=v",), 0),
    ((), 1),  # 1: the variance
    (("sample.clip_denoised=false",), 0),
    (("sample.clip_denoised=dynamic",), 0), (("sample.clip_denoised=dynamic",), 1),
    (("sample.timestep_respacing=20",), 0), (("sample.precision=bf16",), 0)])
@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
def test_no_infinity_hides_behind_clipping(make_run, alone, monkeypatch, overrides, channel, value):
    run = trained(make_run(*overrides))
    failing_at(monkeypatch, value, step=3, channel=channel)
    with pytest.raises(StageFailed, match="chunk 0 is not finite since reverse step 3: "):
        alone(run, "sample")


@pytest.mark.parametrize("step", [249, 201, 200, 101, 100, 99, 0])
def test_a_long_chain_is_looked_at_before_its_end(make_run, alone, monkeypatch, walked, step):
    run = trained(make_run("diffusion.diffusion_steps=250", "sample.num_samples=2"))
    failing_at(monkeypatch, float("nan"), step)
    with pytest.raises(StageFailed, match=f"reverse step {step}: "):
        alone(run, "sample")
    noticed = step // CHECK_EVERY * CHECK_EVERY
    good = min(noticed + CHECK_EVERY, 250)
    assert walked == [*range(249, noticed - 1, -1), *range(good - 1, step - 1, -1)]


def test_a_chunk_half_way_that_is_not_finite_starts_over(make_run, alone):
    run, whole = trained(make_run(folder="run")), trained(make_run(folder="whole"))
    assert alone(whole, "sample") == "done"
    state = {"x": torch.full((4, 1, 8, 8), float("nan")).numpy()}
    file, identity = run.samples / "partial-00000.h5", {"of": "this"}
    save_partial(file, Partial(10, state, torch.Generator().get_state().numpy()), identity)
    assert read_partial(file, identity) is None and not file.exists()
    assert alone(run, "sample") == "done" and same(run, whole)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_sampled(make_run, alone, value):
    run = make_run()
    weights = noisy_weights(run)
    weights["out.2.bias"][0] = value
    save_weights(run, SMALL_SPEC["train"]["iterations"], noisy_weights(run), {"0.9": weights})
    with pytest.raises(StageFailed, match=r"ema-0.9.safetensors: out.2.bias: 1 of 2 values are not finite") as failure:
        alone(run, "sample")
    assert failure.value.kind == "not finite" and not run.samples.exists()
