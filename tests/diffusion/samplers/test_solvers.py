"""DPM-Solver++(2M), UniPC and Heun: every step of every golden case, for both of its endings."""

import json
from collections.abc import Callable, Iterator
from itertools import islice

import pytest
import torch
from paths import GOLDEN
from solver_chains import ending_at, no_noise

from diffusion.gaussian import GaussianDiffusion
from diffusion.networks.unet import UNet
from diffusion.samplers.chain import Step
from diffusion.samplers.denoiser import Denoiser
from diffusion.samplers.table import sampler_function
from diffusion.schedules import alphas_cumprod_of, betas_of

CASES = json.loads((GOLDEN / "solvers.json").read_text())["cases"]
NAMES = {"dpmpp_2m": "dpmpp_2m", "unipc_2_bh2": "unipc", "heun": "heun"}
THRESHOLDS = {"none": False, "clip": True, "dynamic": "dynamic"}
LINEAR_ON_COSINE = "standin_cosine4000_heun_epsilon_clip_uniform10"
"""Heun's method from the last step of a cosine schedule, where alpha is 1e-5: rounding of the image counts a thousandfold."""


def chain_of(case: dict) -> GaussianDiffusion:
    """The chain of a golden case. A chain that ends at the level of step 0 with order 2 is one step of a longer chain short."""
    betas, kept = betas_of(case["noise_schedule"], case["diffusion_steps"]), case["timesteps"][::-1]
    to_level_0 = case["end"] == "t0"
    if to_level_0 and case["orders"][-1] == 2:
        kept, to_level_0 = [0, *kept], False
    diffusion = GaussianDiffusion(betas, predict=case["predict"], timesteps=kept, rescale_timesteps=case["rescale_timesteps"],
                                  variance="learned_range" if case["network"] == "unet" else "fixed_large")
    return ending_at(diffusion, alphas_cumprod_of(betas)[0]) if to_level_0 else diffusion


@pytest.fixture
def networks(golden) -> dict[str, Callable]:
    facts = golden.facts("solvers")["unet"]
    unet = UNet(image_size=facts["image_size"], in_channels=3, out_channels=6, num_channels=facts["num_channels"],
                num_res_blocks=facts["num_res_blocks"], channel_mult=facts["channel_mult"], num_heads=facts["num_heads"],
                attention_resolutions=facts["attention_resolutions"], dropout=0.0, use_scale_shift_norm=True, num_classes=None)
    unet.load_state_dict(golden.formula_weights(facts["state_dict"]))
    return {"unet": unet.eval(), "standin": golden.standin(False)}


@pytest.fixture
def expected(golden) -> dict[str, torch.Tensor]:
    return golden.tensors("solvers")


def steps_of(case: dict, network: Callable, x_T: torch.Tensor, **options) -> Iterator[Step]:
    denoise = Denoiser(chain_of(case), network, clip_denoised=THRESHOLDS[case["threshold"]],
                       dynamic_thresholding_ratio=case.get("quantile", 1.0))
    return islice(sampler_function(NAMES[case["solver"]])(denoise, {"x": x_T}, no_noise, **options), len(case["timesteps"]))


@pytest.mark.parametrize("name", CASES)
def test_every_step_agrees_with_golden(networks, expected, name):
    case = CASES[name]
    steps = list(steps_of(case, networks[case["network"]], expected["x_T"]))
    assert len(steps) == len(expected[name])
    for step, theirs in zip(steps, expected[name], strict=True):
        assert (step.x - theirs).norm() <= (5e-5 if name == LINEAR_ON_COSINE else 1e-5) * theirs.norm(), step.t
    for step, theirs in zip(steps, expected.get(f"{name}_corrected", ()), strict=False):
        assert (step.state["corrected"] - theirs).norm() <= 1e-5 * theirs.norm(), step.t


def test_golden_has_both_endings_and_every_solver_and_threshold():
    assert {(case["solver"], case["end"]) for case in CASES.values()} >= {
        ("dpmpp_2m", "clean"), ("dpmpp_2m", "t0"), ("unipc_2_bh2", "clean"), ("unipc_2_bh2", "t0"), ("heun", "clean")}
    assert {case["threshold"] for case in CASES.values()} == {*THRESHOLDS}
    assert {case["predict"] for case in CASES.values()} == {"epsilon", "v"}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["network"] == "unet" and case["grid"] == "logsnr"])
def test_a_solver_evaluates_the_network_as_often_as_golden_says(networks, expected, name):
    seen = []
    def counted(x, t):
        seen.append(t)
        return networks["unet"](x, t)
    list(steps_of(CASES[name], counted, expected["x_T"]))
    assert len(seen) == CASES[name]["evaluations"]


@pytest.mark.parametrize("solver", NAMES)
def test_recorded_steps_are_the_steps(networks, expected, graphs_without_gpu, solver):
    case = next(case for case in CASES.values() if case["solver"] == solver and case["network"] == "unet")
    plain, recorded = (list(steps_of(case, networks["unet"], expected["x_T"], cuda_graph=graph)) for graph in (False, True))
    for one, other in zip(plain, recorded, strict=True):
        assert one.state.keys() == other.state.keys()
        assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)
        assert torch.equal(one.pred_xstart, other.pred_xstart)
