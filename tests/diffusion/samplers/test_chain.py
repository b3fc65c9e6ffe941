"""The state of a sampler: a walk that starts from a saved state goes on to the same bits."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch

from diffusion.gaussian import GaussianDiffusion
from diffusion.samplers.chain import final, walk
from diffusion.samplers.denoiser import Denoiser, columns
from diffusion.samplers.table import SAMPLERS, sampler_function
from diffusion.schedules import betas_of

K = 10


def two_step(denoise, state, randn, *, first_step=None, cuda_graph=False):
    """DDIM with each predicted image extrapolated from the one before; a toy multistep solver that draws noise as well."""
    c = denoise.diffusion.coefficients
    now, before = c.alphas_cumprod, c.alphas_cumprod_prev
    towards_x_t = np.sqrt((1 - before) / (1 - now))
    extrapolation = 0.5 * (np.arange(K) < K - 1)  # the first step has no image before
    coefficients = columns(denoise.diffusion.device, towards_x_t, np.sqrt(before) - towards_x_t * np.sqrt(now), extrapolation)

    def advance(state, noise, at):
        pred_xstart = denoise.guided(state["x"], at)
        from_x, from_xstart, share = coefficients(at.number)
        image = pred_xstart + share * (pred_xstart - state["pred_xstart"])
        return {"x": from_x * state["x"] + from_xstart * image + 0.01 * noise, "pred_xstart": pred_xstart}, pred_xstart

    return walk(denoise, advance, {"pred_xstart": torch.zeros_like(state["x"]), **state}, randn, first_step, cuda_graph)


def _steps(golden, state, draws, **options):
    noise = iter(draws)
    diffusion = GaussianDiffusion(betas_of("linear", 100), timesteps=list(range(0, 100, 10)))
    return list(two_step(Denoiser(diffusion, golden.standin(False)), state, lambda x: next(noise), **options))


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(K, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_walk_resumed_from_its_saved_state_goes_on_to_the_same_bits(golden, noise, graphs_without_gpu, cuda_graph):
    x_T, *draws = noise
    whole = _steps(golden, {"x": x_T}, draws, cuda_graph=cuda_graph)
    assert [step.t for step in whole] == list(range(K - 1, -1, -1))
    for done, step in enumerate(whole[:-1], start=1):
        saved = {name: torch.from_numpy(tensor.numpy().copy()) for name, tensor in step.state.items()}
        assert saved.keys() == {"x", "pred_xstart"}
        rest = _steps(golden, saved, draws[done:], first_step=step.t - 1, cuda_graph=cuda_graph)
        assert [one.t for one in rest] == [one.t for one in whole[done:]]
        for one, other in zip(rest, whole[done:], strict=True):
            assert torch.equal(one.pred_xstart, other.pred_xstart)
            assert all(torch.equal(one.state[name], other.state[name]) for name in saved)


def test_the_extra_tensor_of_the_toy_matters(golden, noise):
    x_T, *draws = noise
    whole = _steps(golden, {"x": x_T}, draws)
    without = _steps(golden, {"x": whole[3].x}, draws[4:], first_step=whole[3].t - 1)
    assert not torch.equal(without[-1].x, whole[-1].x)


def test_a_walk_without_steps_is_an_error():
    with pytest.raises(ValueError, match="no end"):
        final(iter(()))


def test_every_sampler_of_the_table_has_the_one_signature():
    shared = {"denoise", "state", "randn", "first_step", "cuda_graph"}
    for name, sampler in SAMPLERS.items():
        parameters = inspect.signature(sampler_function(name)).parameters
        assert parameters.keys() == shared | set(sampler.settings), name
        assert list(parameters)[:3] == ["denoise", "state", "randn"], name


def test_an_unknown_sampler_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown sampler 'dimm'; there are ancestral, ddim, dpmpp_2m, unipc and heun"):
        sampler_function("dimm")


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_table_knows_at_which_steps_a_chain_evaluates_the_network(golden, noise, name):
    seen, network = [], golden.standin(False)
    def counted(x, t):
        seen.append(t[0].item())
        return network(x, t)
    diffusion = GaussianDiffusion(betas_of("linear", 100), timesteps=list(range(0, 100, 10)))
    final(sampler_function(name)(Denoiser(diffusion, counted), {"x": noise[0]}, torch.zeros_like))
    assert seen == [diffusion.network_times[number] for number in SAMPLERS[name].evaluated(K)]
    assert len(seen) == SAMPLERS[name].evaluations(K)


def test_tables_that_a_login_node_reads_load_no_torch():
    modules = ["diffusion.samplers.table", "diffusion.parameterisation", "diffusion.schedules", "diffusion.respacing",
               "diffusion.objectives"]
    code = f"import sys, {', '.join(modules)}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
