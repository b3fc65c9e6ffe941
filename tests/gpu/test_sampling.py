"""The sampling loop on the GPU: no wait for the device, CUDA graphs, torch.compile."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from on_gpu import IS_GPU, distance, fill_with_noise, medium, needs_gpu, only_gpu, random_data

from diffusion.samplers.table import SAMPLERS
from jobs.kinds.protocol import model_of
from jobs.parallel.compiling import compile_in_place
from jobs.parallel.precision import computing_in
from jobs.randomness import generator_for
from jobs.sampling.loop import steps_of_chunk
from jobs.spec.kinds import MODEL
from jobs.training.batches import Batches
from jobs.training.state import new_state, settle_buckets
from jobs.training.step import train_step

# Importing the compiler warns of what torch itself will change.
pytestmark = [needs_gpu, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
CHAINS = {name: "logsnr10" if name in ("dpmpp_2m", "unipc", "heun") else "10" for name in SAMPLERS}
GUIDANCES = {"alone": None, "classifier_free": {"kind": "classifier_free", "scale": 2.0},
             "classifier": {"kind": "classifier", "scale": 2.0, "run": "another"},
             "autoguidance": {"kind": "autoguidance", "scale": 1.5, "run": "another"}}


@contextmanager
def without_waiting() -> Iterator[None]:
    """In this block torch raises an error where the host would wait for the GPU."""
    try:
        if IS_GPU:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the first call says that this is a prototype
                torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        if IS_GPU:
            torch.cuda.set_sync_debug_mode("default")


class HalfImage(torch.nn.Module):
    """A classifier of ten classes; small, and with a gradient by a convolution and a product."""

    def __init__(self):
        super().__init__()
        self.convolution, self.last = torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.Linear(32, 10)

    def forward(self, x, t):
        return self.last(torch.relu(self.convolution(x)).mean(dim=(2, 3)))


def chain(device, sample: dict, guidance: str = "alone", compiled: str = "", std: float = 0.05) -> list[torch.Tensor]:
    """Return x after each of the ten steps of a chunk of four samples."""
    spec = medium(sample={**sample, "guidance": GUIDANCES[guidance]})
    network = fill_with_noise(model_of(spec).network(spec), std).to(device).eval()
    guide = {"classifier": HalfImage, "autoguidance": lambda: model_of(spec).network(spec)}.get(guidance, lambda: None)()
    guide = fill_with_noise(guide, std, seed=1).to(device).eval() if guide is not None else None
    if compiled:
        compile_in_place(network, compiled, spec.sample.cuda_graph)
    with computing_in(spec.sample.precision, device):
        steps = steps_of_chunk(spec, network, generator_for(device, 0, "sample", 0), np.arange(4), 4, guide=guide)
        found = [next(steps).x]
        with without_waiting():
            found += [step.x for step in steps]
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guidance", GUIDANCES)
def test_no_step_of_a_chain_waits_for_the_gpu(group, device, sampler, guidance):
    steps = chain(device, {"sampler": sampler, "timestep_respacing": CHAINS[sampler]}, guidance)
    assert len(steps) >= 9 and all(torch.isfinite(x).all() for x in steps)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_no_step_of_training_waits_for_the_gpu(group, device, precision):
    spec = medium({"precision": precision, "grad_clip": 1.0, "ema_sigma_rel": [0.05]})
    state = new_state(spec, group)
    batches = Batches(spec, random_data(spec), group)(0, 4)
    for step in range(4):
        examples = next(batches)
        if step < 2:  # the first ones make buckets and buffers
            train_step(state, examples, step)
        else:
            with without_waiting():
                train_step(state, examples, step)


@only_gpu
@pytest.mark.parametrize("sampler, guidance, precision", [
    *((sampler, "alone", "fp32") for sampler in SAMPLERS), ("ancestral", "alone", "bf16"), ("ancestral", "alone", "fp16"),
    ("ancestral", "alone", "tf32"), ("ancestral", "classifier_free", "bf16"), ("ancestral", "classifier", "fp32"),
    ("ddim", "classifier", "bf16"), ("unipc", "autoguidance", "fp32"), ("heun", "classifier_free", "fp32")])
def test_a_cuda_graph_gives_the_bits_of_single_launches(group, device, sampler, guidance, precision):
    settings = {"sampler": sampler, "timestep_respacing": CHAINS[sampler], "precision": precision}
    eager = chain(device, settings, guidance)
    recorded = chain(device, {**settings, "cuda_graph": True}, guidance)
    assert all(torch.equal(one, other) for one, other in zip(eager, recorded, strict=True))


@only_gpu
@pytest.mark.parametrize("mode, precision, graph, most", [
    ("default", "fp32", False, 1e-4), ("default", "bf16", False, 2e-2), ("default", "fp32", True, 1e-4),
    ("blocks", "bf16", False, 2e-2), ("blocks", "fp32", True, 1e-4)])
def test_a_compiled_network_samples_nearly_the_same_and_repeats(group, device, mode, precision, graph, most):
    eager = chain(device, {"precision": precision})[-1]
    first, second = (chain(device, {"precision": precision, "cuda_graph": graph}, compiled=mode)[-1] for _ in range(2))
    print(f"\ncompiled {precision}: {distance(first, eager):.1e}")
    assert torch.equal(first, second) and distance(first, eager) <= most


@pytest.mark.parametrize("mode, precision, most", [("blocks", "fp32", 1e-4), ("blocks", "bf16", 5e-2), ("default", "fp32", 1e-4)])
def test_a_compiled_training_step_is_nearly_that_of_the_network_alone(group, mode, precision, most):
    def gradient(compiled: bool | str) -> torch.Tensor:
        spec = medium({"precision": precision, "compile": compiled})
        state = new_state(spec, group)
        fill_with_noise(state.parts[MODEL].network)
        settle_buckets(state)
        [examples] = Batches(spec, random_data(spec), group)(0, 1)
        train_step(state, examples, 0)
        return torch.cat([parameter.grad.flatten() for parameter in state.parts[MODEL].parameters])
    eager, first, second = gradient(False), gradient(mode), gradient(mode)
    print(f"\ncompiled {precision}: {distance(first, eager):.1e}")
    assert torch.equal(first, second) and distance(first, eager) <= most
