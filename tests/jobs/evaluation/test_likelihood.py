"""Bits/dim of held-out examples."""

import json

import numpy as np
import pytest
import torch
from evaluated_runs import noisy_network, result, terms

from diffusion.losses import bits_per_dim
from diffusion.networks.unet import UNet
from jobs.data.dataset import open_data
from jobs.data.pictures import to_x
from jobs.errors import StageFailed, UserError
from jobs.kinds.diffusion.build import build_diffusion
from jobs.randomness import generator_for, randn_from


@pytest.mark.slow
def test_bits_per_dim_of_every_held_out_example_once_and_in_order(sampled, alone):
    run = sampled("evaluate.nll_examples=7", "evaluate.batch_size=3", "evaluate.metrics=[]")
    assert alone(run, "evaluate") == "done"
    found = terms(run)
    assert {name: array.shape for name, array in found.items()} == {
        "total": (7,), "prior": (7,), "vb": (40,), "mse": (40,), "xstart_mse": (40,)}

    spec, data = run.spec, open_data("digits-test", 8, 1, 10)
    network, diffusion = noisy_network(spec), build_diffusion(spec, "cpu")
    bounds = []
    for number, start in enumerate((0, 3, 6)):
        rows = slice(start, min(start + 3, 7))
        x = to_x(torch.from_numpy(data.images[rows])).permute(0, 3, 1, 2)
        randn = randn_from(generator_for("cpu", 0, "bits per dim", number), 3)
        bounds.append(bits_per_dim(diffusion, network, x, randn,
                                   model_kwargs={"y": torch.from_numpy(data.labels[rows])}))
    np.testing.assert_allclose(found["total"], torch.cat([bound.total for bound in bounds]).numpy(), rtol=1e-5)
    np.testing.assert_allclose(found["prior"], torch.cat([bound.prior for bound in bounds]).numpy(), rtol=1e-4)
    for name in ("vb", "mse", "xstart_mse"):  # column t belongs to t
        expected = torch.cat([getattr(bound, name) for bound in bounds]).mean(0)
        np.testing.assert_allclose(found[name], expected.numpy(), rtol=1e-4)
    assert found["xstart_mse"][0] < 0.1 * found["xstart_mse"][-1] and found["vb"][0] > 10 * found["vb"][-1]

    assert found["total"].mean() == pytest.approx(found["vb"].sum() + found["prior"].mean(), rel=1e-5)
    summary = result(run)["bits_per_dim"]
    assert summary == {"value": pytest.approx(found["total"].mean()), "prior": pytest.approx(found["prior"].mean()),
                       "standard_error": pytest.approx(found["total"].std(ddof=1) / 7 ** 0.5), "examples": 7,
                       "data": "digits-test"}
    assert result(run)["headline"] == {"bits/dim": summary["value"]}


def test_the_bound_is_over_the_full_chain_whatever_the_samples_took(sampled, alone):
    run = sampled("sample.sampler=ddim", "sample.timestep_respacing=8", "evaluate.nll_examples=4", "evaluate.metrics=[]")
    assert alone(run, "evaluate") == "done"
    assert len(terms(run)["vb"]) == 40 and "bits/dim" in result(run)["headline"]
    assert result(run)["curve"][0]["metrics"] == {}
    pieces = json.loads((run.path / "evaluated.json").read_text())
    assert list(pieces) == ["bits/dim step 12, ancestral, full"]  # nothing more computed


def test_one_example_has_no_standard_error(sampled, alone):
    run = sampled("evaluate.nll_examples=1", "evaluate.metrics=[]", "diffusion.diffusion_steps=5")
    assert alone(run, "evaluate") == "done"
    assert result(run)["bits_per_dim"]["standard_error"] is None


def test_more_examples_than_there_are_are_refused(sampled, alone):
    run = sampled("evaluate.nll_examples=298", "evaluate.metrics=[]", "diffusion.diffusion_steps=5")
    with pytest.raises(UserError, match="evaluate.nll_examples: 298, but digits-test has 297 examples"):
        alone(run, "evaluate")
    assert not run.evaluation.exists()
    assert json.loads(run.progress.read_text())["state"] == "failed"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("step", [39, 17, 0])
def test_bits_that_are_not_finite_fail_with_examples_and_timestep(sampled, alone, monkeypatch, value, step):
    run = sampled("evaluate.metrics=[]")
    forward = UNet.forward
    calls = []

    def broken(self, x, t, **model_kwargs):
        output = forward(self, x, t, **model_kwargs)
        calls.append(1)
        if len(calls) == 40 + 40 - step:  # in the second batch
            output = output.clone()
            output[1, 0, 2, 2] = value
        return output
    monkeypatch.setattr(UNet, "forward", broken)
    with pytest.raises(StageFailed, match=f"bits/dim of examples 4 to 5 are not finite since timestep {step}: ") as failure:
        alone(run, "evaluate")
    assert failure.value.kind == "not finite" and not run.evaluation.exists()
