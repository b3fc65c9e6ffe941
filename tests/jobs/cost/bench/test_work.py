"""The steps that are timed are the stages' own steps, with the settings of the variant."""

import torch
from small_classifier import classifier_spec

from diffusion.networks.encoder import Block
from jobs.cost.bench import work as bench_work
from jobs.cost.bench.file import Variant
from jobs.cost.bench.measure import measure_sampling
from jobs.cost.bench.work import Use, random_images, sampling_work, training_work, use_of
from jobs.kinds.diffusion.build import build_network
from jobs.sampling.loop import steps_of_chunk
from jobs.spec.kinds import MODEL
from jobs.training.state import new_state
from jobs.training.step import train_step

CPU = torch.device("cpu")


def test_sampling_is_timed_in_the_precision_of_the_variant(spec, monkeypatch, short):
    seen = []

    def watched(spec, *rest, **given):
        seen.append((spec.sample.precision, spec.sample.batch_size, torch.is_autocast_enabled("cpu")))
        return steps_of_chunk(spec, *rest, **given)
    monkeypatch.setattr(bench_work, "steps_of_chunk", watched)
    measure_sampling(spec, CPU, ["fp32", "bf16"], short, True, False)
    assert {*seen} == {(precision, size, False) for precision in ("fp32", "bf16") for size in (4, 2, 1)}


def test_what_is_timed_is_the_training_step_of_the_variant(spec, group, monkeypatch):
    seen = []

    def watched(state, examples, step):
        train = state.spec.train
        blocks = [module for module in state.parts[MODEL].network.modules() if isinstance(module, Block)]
        checkpointing = {layer.recompute for block in blocks for layer in block if hasattr(layer, "recompute")}
        seen.append((train.precision, len(examples.images), *checkpointing, step, state.parts[MODEL].scaler.is_enabled()))
        return train_step(state, examples, step)
    monkeypatch.setattr(bench_work, "train_step", watched)
    state, data = new_state(spec, group), random_images(spec, 64)
    before = [parameter.clone() for parameter in state.parts[MODEL].parameters]
    works = [training_work(state, Variant(work="train", precision=precision, gradient_checkpointing=checkpointing,
                                            batch_size=batch_size), data)
             for precision, checkpointing, batch_size in (("fp32", False, 3), ("bf16", True, 5), ("fp16", False, 4))]
    for work in (*works, works[1]):
        work()
    assert seen == [("fp32", 3, False, 0, False), ("bf16", 5, True, 0, False), ("fp16", 4, False, 0, True),
                    ("bf16", 5, True, 1, False)]
    assert any(not torch.equal(old, new) for old, new in zip(before, state.parts[MODEL].parameters, strict=True))


def test_what_is_timed_is_a_reverse_step_of_the_variant(spec):
    network, seen = build_network(spec).eval(), []
    network.middle_block.register_forward_hook(lambda module, given, out: seen.append((len(out), out.dtype, out.requires_grad)))
    for precision, batch_size in (("fp32", 3), ("bf16", 5)):
        work = sampling_work(spec, network, Variant(work="sample", precision=precision, batch_size=batch_size), CPU)
        for _ in range(spec.diffusion.diffusion_steps + 1):  # the chain begins anew
            work()
    assert seen == [(3, torch.float32, False)] * 41 + [(5, torch.bfloat16, False)] * 41


def test_of_a_kind_that_draws_no_samples_the_forward_pass_of_its_evaluation_is_timed(spec, short):
    classifier = classifier_spec()
    assert use_of(classifier) == Use("evaluate", 4, "fp32") and use_of(spec).stage == "sample"
    rates, flops = measure_sampling(classifier, CPU, ["fp32", "bf16"], short, True, True)
    assert {(rate.precision, rate.batch_size) for rate in rates} == {
        (precision, size) for precision in ("fp32", "bf16") for size in (4, 2, 1)}
    assert all(rate.per_second for rate in rates) and flops > 0
