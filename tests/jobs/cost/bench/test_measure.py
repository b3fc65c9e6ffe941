"""Which variants `iddpm bench` measures, and how a variant that fails is reported."""

import pytest
import torch
from small_gan import gan_spec

from diffusion.networks.encoder import Block
from jobs.cost.bench import measure as measuring
from jobs.cost.bench import work as bench_work
from jobs.cost.bench.file import Variant
from jobs.cost.bench.measure import (
    VariantStep,
    fast_variants,
    measure,
    measure_sampling,
    measure_training,
    recorded_variants,
    warm_up,
)
from jobs.cost.bench.work import random_images, sampling_work, training_work
from jobs.cost.count import run_cost
from jobs.spec.kinds import MODEL
from jobs.training.state import new_state

CPU = torch.device("cpu")


@pytest.mark.slow
def test_every_combination_is_measured_where_there_is_time(spec, group, short):
    rates, _, _ = measure_training(spec, group, ["bf16"], short, False, False)
    assert {(rate.precision, rate.gradient_checkpointing, rate.batch_size) for rate in rates} == {
        ("bf16", checkpointing, batch) for checkpointing in (False, True) for batch in (6, 12, 24)}
    rates, _ = measure_sampling(spec, CPU, ["fp32"], short, False, False)
    assert [rate.batch_size for rate in rates] == [4, 2, 1, 8]


@pytest.mark.slow
def test_checkpointing_at_some_resolutions_is_measured_besides(spec, group, short):
    listed = spec.model_copy(update={"train": spec.train.model_copy(update={"gradient_checkpointing": [8]})})
    rates, _, _ = measure_training(listed, group, ["fp32"], short, True, False)
    assert [(rate.batch_size, rate.gradient_checkpointing) for rate in rates][:3] == [(12, False), (12, True), (12, (8,))]
    state = new_state(spec, group)
    training_work(state, Variant(work="train", precision="fp32", gradient_checkpointing=(8,), batch_size=2),
                  random_images(spec, 8))()
    blocks = [module for module in state.parts[MODEL].network.modules() if isinstance(module, Block)]
    recomputed = {(block.resolution, layer.recompute) for block in blocks for layer in block if hasattr(layer, "recompute")}
    assert recomputed == {(8, True), (4, False)}


def test_rates_are_of_images(spec, short):
    candidates = [VariantStep(Variant(work="sample", precision="fp32", batch_size=batch), lambda: None) for batch in (1, 100)]
    calls = {"one": 2.0, "hundred": 3.0}

    def made_up(works, repeats, device):
        return {variant: [rate, rate, 2 * rate] for variant, rate in zip(works, calls.values(), strict=True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "rates_in_turns", made_up)
        one, hundred = measure(candidates, short, CPU)
    assert (one.per_second.median, hundred.per_second.median, hundred.per_second.q75) == (2, 300, 450)


@pytest.mark.slow
def test_what_does_not_fit_is_a_row_and_not_tried(spec, group, monkeypatch, short):
    needs = {batch: run_cost(bench_work.with_variant(spec, Variant(work="train", precision="fp32", batch_size=batch))
                             ).training_memory.total for batch in (6, 12, 24)}
    monkeypatch.setattr(measuring, "free_memory", lambda: (needs[12] + needs[24]) // 2)
    rates, split, _ = measure_training(spec, group, ["fp32"], short, False, False)
    [failed] = [rate for rate in rates if rate.problem]
    assert (failed.batch_size, failed.gradient_checkpointing, failed.per_second) == (24, False, None)
    assert failed.problem.startswith("needs about ") and failed.memory_bytes == needs[24] and split
    monkeypatch.setattr(measuring, "free_memory", lambda: 0)
    rates, split, flops = measure_training(spec, group, ["fp32"], short, False, False)
    assert all(rate.problem for rate in rates) and split == {} and flops > 0


def test_a_full_gpu_is_a_row_and_training_goes_on(spec, group):
    state, data, recovered = new_state(spec, group), random_images(spec, 64), []

    def out_of_memory():
        raise torch.OutOfMemoryError("CUDA out of memory")
    variant = Variant(work="train", precision="fp32", batch_size=3)
    problem, memory = warm_up(VariantStep(variant, out_of_memory, 1, lambda: recovered.append(True)), CPU)
    assert (problem, memory, recovered) == ("does not fit into the GPU's memory", None, [True])
    assert warm_up(VariantStep(variant, training_work(state, variant, data), 1), CPU) == ("", 1)
    with pytest.raises(ZeroDivisionError):  # a fault of ours is no property of the machine
        warm_up(VariantStep(variant, lambda: 1 / 0), CPU)


@pytest.mark.slow
def test_a_compiler_that_fails_is_a_row(spec, group, monkeypatch, short):
    def at_once(self):
        raise ImportError("no inductor")

    def at_the_first_step(self):
        def fail(*arguments, **labels):
            raise RuntimeError("no C++ compiler\nand more")
        self._compiled_call_impl = fail
    monkeypatch.setattr(torch.nn.Module, "compile", at_the_first_step)
    training, _, _ = measure_training(spec, group, ["fp32"], short, True, True)
    monkeypatch.setattr(torch.nn.Module, "compile", at_once)
    sampling, _ = measure_sampling(spec, CPU, ["fp32"], short, True, True)
    for rates, problem in ((training, "RuntimeError: no C++ compiler"), (sampling, "ImportError: no inductor")):
        [compiled] = [rate for rate in rates if rate.compiled]
        assert compiled.problem == f"torch.compile: {problem}" and compiled.per_second is None
        assert all(rate.per_second for rate in rates if not rate.compiled)


def test_what_compiles_is_timed_beside_the_rest(spec, monkeypatch, short):
    calls = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: calls.append(self))
    rates, _ = measure_sampling(spec, CPU, ["fp32"], short, True, True)
    assert [rate.compiled for rate in rates] == [False, False, False, True] and rates[-1].per_second and len(calls) == 1


def test_recorded_steps_are_measured_on_a_gpu_alone(spec, monkeypatch):
    own = Variant(work="sample", precision="bf16", batch_size=8)
    assert recorded_variants(spec, own, CPU) == [] == recorded_variants(gan_spec(), own, torch.device("cuda"))
    [recorded] = recorded_variants(spec, own, torch.device("cuda"))
    assert recorded == Variant(work="sample", precision="bf16", batch_size=8, cuda_graph=True)
    [fast] = fast_variants(own, torch.device("cuda"))
    assert fast == own.model_copy(update={"deterministic": False}) and fast_variants(own, CPU) == []
    seen = []

    def chain(spec, *arguments, **given):
        seen.append(spec.sample.cuda_graph)
        yield
    monkeypatch.setattr(bench_work, "steps_of_chunk", chain)
    for variant in (own, recorded):
        sampling_work(spec, None, variant, CPU)()
    assert seen == [False, True]

    def fail():
        raise RuntimeError("operation not permitted when stream is capturing\nand more")
    problem = "CUDA graph: RuntimeError: operation not permitted when stream is capturing"
    assert warm_up(VariantStep(recorded, fail), CPU) == (problem, None)
