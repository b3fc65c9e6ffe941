"""What a reverse step takes around the network, and what precision and compiling do: python tests/benchmarks/sample.py [PART ...]

    around     the sampler with a network that costs nothing, against the plain way: tables in float64 on the host, from which
               every step copies its numbers, and the map of timesteps as a list
    chains     whole chains of each sampler, against as many evaluations of the network alone
    precision  256 samples of a small network, trained here on digits, in bf16 and fp16 against fp32 at equal seeds; for
               comparison also samples of a chain shorter by one step, and of other seeds
    compiled   steps of that network, eager and compiled (minutes)
    graph      on a GPU alone: steps of that network, launched kernel by kernel and as a CUDA graph, and their samples; no step
               may wait for the device

Ratios are of medians, with the quartiles of interleaved rounds.
"""

import itertools
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion.gaussian import GaussianDiffusion
from diffusion.networks.unet import UNet
from diffusion.samplers.ancestral import ancestral
from diffusion.samplers.chain import final
from diffusion.samplers.denoiser import Denoiser
from diffusion.samplers.table import SAMPLERS, sampler_function
from diffusion.schedules import betas_of
from jobs.cost.bench.timing import Repeats, rates_in_turns
from jobs.data.dataset import open_data
from jobs.data.pictures import to_uint8
from jobs.evaluation.metrics.frechet import GaussianFit, Moments, frechet_distance
from jobs.kinds.diffusion.build import build_diffusion, build_network
from jobs.kinds.diffusion.sections import DiffusionSpecAsWritten, resolve
from jobs.kinds.protocol import Generated
from jobs.parallel.compiling import compile_options
from jobs.parallel.group import Group, process_group
from jobs.randomness import generator_for
from jobs.sampling.loop import steps_of_chunk
from jobs.spec.kinds import MODEL
from jobs.training.batches import Batches
from jobs.training.state import new_state
from jobs.training.step import train_step

CHUNKS = 4
STEPS, REPEATS = 4000, Repeats(rounds=21, slice_s=0.1)


def table(name: str, times: dict[str, list[float]]) -> None:
    """Print the milliseconds of each way, and how much longer the first way takes."""
    first = None
    for key, rates in times.items():
        low, median, high = np.percentile(1e3 / np.array(rates), [25, 50, 75])
        first = first or median
        print(f"{name:24s} {key:10s} {median:8.3f} ms [{low:.3f}, {high:.3f}]   first/this {first / median:5.2f}", flush=True)


# Around the network

class Plain:
    """The reverse step as the papers' equations have it: each number is looked up where an equation has it."""

    def __init__(self, betas: np.ndarray):
        alphas_cumprod = np.cumprod(1 - betas)
        before = np.append(1.0, alphas_cumprod[:-1])
        self.betas, self.timestep_map = betas, list(range(len(betas)))
        self.variance = betas * (1 - before) / (1 - alphas_cumprod)
        self.log_variance = np.log(np.append(self.variance[1], self.variance[1:]))
        self.recip, self.recipm1 = np.sqrt(1 / alphas_cumprod), np.sqrt(1 / alphas_cumprod - 1)
        self.coef1 = betas * np.sqrt(before) / (1 - alphas_cumprod)
        self.coef2 = (1 - before) * np.sqrt(1 - betas) / (1 - alphas_cumprod)

    @staticmethod
    def at(values: np.ndarray, t: Tensor, shape: torch.Size) -> Tensor:
        found = torch.from_numpy(values).to(t.device)[t].float()
        return found[:, None, None, None].expand(shape)

    def step(self, network, x: Tensor, number: int) -> Tensor:
        t, shape = torch.tensor([number] * len(x)), x.shape
        times = torch.tensor(self.timestep_map, dtype=t.dtype)[t].float() * (1000.0 / STEPS)
        output, v = torch.split(network(x, times), shape[1], dim=1)
        low, high = self.at(self.log_variance, t, shape), self.at(np.log(self.betas), t, shape)
        fraction = (v + 1) / 2
        log_variance = fraction * high + (1 - fraction) * low
        variance = torch.exp(log_variance)
        x_start = (self.at(self.recip, t, shape) * x - self.at(self.recipm1, t, shape) * output).clamp(-1, 1)
        mean = self.at(self.coef1, t, shape) * x_start + self.at(self.coef2, t, shape) * x
        posterior = self.at(self.variance, t, shape), self.at(self.log_variance, t, shape)
        assert mean.shape == log_variance.shape == variance.shape == posterior[0].shape == posterior[1].shape
        noise, mask = torch.randn_like(x), (t != 0).float().view(-1, 1, 1, 1)
        return mean + mask * torch.exp(0.5 * log_variance) * noise


def around() -> None:
    betas = betas_of("cosine", STEPS)
    diffusion, plain = GaussianDiffusion(betas, variance="learned_range", rescale_timesteps=True), Plain(betas)
    for batch_size in (1, 8, 32):
        around_batch(diffusion, plain, batch_size)


def around_batch(diffusion: GaussianDiffusion, plain: Plain, batch_size: int) -> None:
    x, output = torch.randn(batch_size, 3, 16, 16), 0.1 * torch.randn(batch_size, 6, 16, 16)

    def network(x_t: Tensor, times: Tensor) -> Tensor:
        return output

    def chain_without_end() -> Iterator[object]:
        while True:
            yield from ancestral(Denoiser(diffusion, network), {"x": x}, torch.randn_like)
    chain, numbers = chain_without_end(), itertools.cycle(range(STEPS - 1, 0, -1))
    state = {"x": x}

    def plain_step() -> None:
        state["x"] = plain.step(network, state["x"], next(numbers))
    with torch.no_grad():
        rates = rates_in_turns({"plain": plain_step, "ours": lambda: next(chain)}, REPEATS, x.device)
    table(f"around, batch {batch_size}", rates)


# Chains

def chains() -> None:
    network = build_network(SPEC).eval()
    x, y, device = torch.randn(64, 1, 8, 8), torch.arange(64) % 10, torch.device("cpu")
    for name, sampler in SAMPLERS.items():
        for steps in (10, 50):
            diffusion = build_diffusion(SPEC, device, f"logsnr{steps}")
            number, evaluations = torch.tensor([1]), sampler.evaluations(diffusion.num_timesteps)
            alone = network.along(diffusion.network_times, y=y)
            denoise = Denoiser(diffusion, network, model_kwargs={"y": y})

            def evaluate(evaluations=evaluations, alone=alone, number=number) -> None:
                for _ in range(evaluations):
                    alone(x, number)

            def chain(name=name, denoise=denoise) -> None:
                final(sampler_function(name)(denoise, {"x": x}, torch.randn_like))
            with torch.no_grad():
                rates = rates_in_turns({"chain": chain, f"{evaluations} alone": evaluate}, Repeats(rounds=9, slice_s=0.1), device)
            table(f"{name}, {diffusion.num_timesteps} steps", rates)


# Precision and compiling

SPEC = resolve(DiffusionSpecAsWritten.model_validate({
    "name": "benchmark", "data": {"path": "digits", "image_size": 8, "channels": 1, "class_cond": True, "num_classes": 10},
    "model": {"num_channels": 32, "num_res_blocks": 1, "channel_mult": [1, 2], "attention_resolutions": [4], "num_heads": 2},
    "train": {"iterations": 1200, "batch_size": 64, "lr": 1e-3, "warmup": 100, "grad_clip": 1.0, "ema_rate": [0.995]},
    "sample": {"batch_size": 64, "timestep_respacing": "250", "ema_rate": 0.995}}))  # as configs/quickstart.yaml


def trained(group: Group) -> UNet:
    state, data = new_state(SPEC, group), open_data("digits", 8, 1, 10)
    for step, examples in enumerate(Batches(SPEC, data, group)(0, SPEC.train.iterations)):
        train_step(state, examples, step)
    part = state.parts[MODEL]
    part.network.load_state_dict(part.averages["0.995"])
    return part.network.eval()


def chain_of(network: UNet, chunk: int = 0, **sample) -> Iterator[Generated]:
    spec = SPEC.model_copy(update={"sample": SPEC.sample.model_copy(update=sample)})
    device = next(network.parameters()).device
    return steps_of_chunk(spec, network, generator_for(device, "benchmark", chunk), np.arange(64) % 10, 64)


def samples_of(network: UNet, first: int = 0, **sample) -> Tensor:
    """Return CHUNKS x 64 samples as int32 in 0 .. 255."""
    found = []
    for chunk in range(first, first + CHUNKS):
        (last,) = deque(chain_of(network, chunk, **sample), maxlen=1)
        found.append(to_uint8(last.x).cpu().int())
    return torch.cat(found)


def compare(name: str, images: Tensor, from_images: Tensor) -> None:
    """Print how far samples are from samples of fp32 at equal seeds."""
    apart = (images - from_images).abs().float().flatten()
    distance = frechet_distance(*(fitted(one.flatten(1)) for one in (images, from_images)))
    print(f"samples of {name:16s} to fp32's: mean {apart.mean():.3f}, 99 % {apart.quantile(0.99):.0f}, "
          f"most {apart.max():.0f} of 255 grey levels; Fréchet distance (pixels) {distance:.4f}", flush=True)


def fitted(features: Tensor) -> GaussianFit:
    moments = Moments(features.shape[1], features.device)
    moments.add(features / 255)
    moments.reduce()
    return moments.fitted()


def precision(network: UNet) -> None:
    plain = samples_of(network)
    for name, sample in {"bf16": {"precision": "bf16"}, "249 steps": {"timestep_respacing": "249"},
                         "other seeds": {"first": CHUNKS}}.items():
        compare(name, samples_of(network, **sample), plain)
    short = {"timestep_respacing": "25"}  # on a CPU a step in fp16 takes seconds
    compare("fp16, 25 steps", samples_of(network, precision="fp16", **short), samples_of(network, **short))


def steps_without_end(network: UNet, **sample) -> Iterator[Generated]:
    while True:
        yield from chain_of(network, **sample)


def compiled(network: UNet) -> None:
    other = build_network(SPEC).eval()
    other.load_state_dict(network.state_dict())
    other.compile(**compile_options("default"))
    chains, began = {"eager": steps_without_end(network), "compiled": steps_without_end(other)}, time.perf_counter()
    next(chains["compiled"])
    print(f"compiled in {time.perf_counter() - began:.0f} s")
    works = {name: lambda chain=chain: next(chain) for name, chain in chains.items()}
    table("a step, batch 64", rates_in_turns(works, REPEATS, torch.device("cpu")))
    compare("compiled", samples_of(other), samples_of(network))


def graph(network: UNet) -> None:
    chains = {"launched": steps_without_end(network), "recorded": steps_without_end(network, cuda_graph=True)}
    for chain in chains.values():
        next(chain)
    torch.cuda.set_sync_debug_mode("error")
    for chain in chains.values():
        for _ in range(20):
            next(chain)
    torch.cuda.set_sync_debug_mode("default")
    works = {name: lambda chain=chain: next(chain) for name, chain in chains.items()}
    table("a step, batch 64", rates_in_turns(works, REPEATS, next(network.parameters()).device))
    compare("a graph", samples_of(network, cuda_graph=True), samples_of(network))


if __name__ == "__main__":
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or ["around", "precision"]
    if "around" in wanted:
        around()
    if "chains" in wanted:
        chains()
    if "graph" in wanted and not torch.cuda.is_available():
        sys.exit("graph: there is no GPU here")
    if {"precision", "compiled", "graph"} & {*wanted}:
        with tempfile.TemporaryDirectory() as folder, process_group(Path(folder) / "meeting", 1) as group:
            network = trained(group)
            if "precision" in wanted:
                precision(network)
            if "compiled" in wanted:
                compiled(network)
            if "graph" in wanted:
                graph(network)
