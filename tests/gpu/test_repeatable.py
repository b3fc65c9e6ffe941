"""Equal bits on the GPU: two runs, resumed training and sampling, one process and two that share the GPU."""

import numpy as np
import pytest
import torch
from broken_sampling import die_in_the_first_chunk
from noisy_runs import same, samples, trained
from on_gpu import fill_with_noise, medium, needs_gpu, only_gpu, random_data
from small_runs import kill_in_training, logs

from jobs.kinds.protocol import model_of
from jobs.parallel.precision import computing_in
from jobs.randomness import generator_for
from jobs.run.checkpoints import newest_checkpoint
from jobs.sampling.finite_steps import state_after
from jobs.sampling.loop import steps_of_chunk
from jobs.spec.kinds import MODEL
from jobs.training.batches import Batches
from jobs.training.state import new_state
from jobs.training.step import train_step

pytestmark = needs_gpu
LONG = ("train.iterations=60", "train.save_interval=20", "evaluate.nll_examples=0")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_two_trainings_end_with_equal_bits(group, precision):
    def weights() -> list[torch.Tensor]:
        spec = medium({"precision": precision, "gradient_checkpointing": [8], "grad_clip": 1.0})
        state = new_state(spec, group)
        fill_with_noise(state.parts[MODEL].network)
        with computing_in(precision, group.device):
            for step, examples in enumerate(Batches(spec, random_data(spec), group)(0, 3)):
                train_step(state, examples, step)
        return [parameter.detach().clone() for parameter in state.parts[MODEL].parameters]
    assert all(torch.equal(one, other) for one, other in zip(weights(), weights(), strict=True))


def weights_of(run) -> dict[str, dict[str, torch.Tensor]]:
    checkpoint = newest_checkpoint(run, report=print)
    assert checkpoint is not None and checkpoint.step == run.spec.train.iterations
    return {str(rate): dict(checkpoint.weights(rate, MODEL)) for rate in (None, "0.9")}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_resumed_after_kill_9_ends_with_the_bits_of_an_unbroken_run(make_gpu_run, ranks, precision):
    own = f"train.precision={precision}"
    killed, unbroken = make_gpu_run(*LONG, own, folder="killed"), make_gpu_run(*LONG, own, folder="unbroken")
    kill_in_training(killed, lambda run, stage, _, **rest: ranks(run, stage, 1, **rest))
    assert newest_checkpoint(killed, report=print).step < 60
    assert ranks(killed, "train") == 0 == ranks(unbroken, "train"), logs(killed) + logs(unbroken)
    ours, theirs = weights_of(killed), weights_of(unbroken)
    for rate, values in theirs.items():
        assert all(torch.equal(ours[rate][name], value) for name, value in values.items()), rate


def test_one_process_and_two_on_one_gpu_and_after_kill_9_write_equal_bytes(make_gpu_run, ranks):
    overrides = ("evaluate.nll_examples=0", "sample.num_samples=22", "resources.sample.tasks_per_node=2")
    one, two, killed = (trained(make_gpu_run(*overrides, folder=folder)) for folder in ("one", "two", "killed"))
    assert ranks(one, "sample", 1) == 0, logs(one)
    assert ranks(two, "sample", 2) == 0, logs(two)
    die_in_the_first_chunk(killed)
    assert ranks(killed, "sample", 2) == 0, logs(killed)
    assert same(one, two) and same(one, killed)
    assert len(np.unique(samples(one)["images"])) > 20


def test_a_guided_chain_resumed_after_kill_9_writes_equal_bytes(make_guided, ranks):
    killed, unbroken = make_guided(folder="killed"), make_guided(folder="unbroken")
    assert ranks(unbroken, "sample") == 0, logs(unbroken)
    die_in_the_first_chunk(killed)
    assert ranks(killed, "sample") == 0, logs(killed)
    assert same(killed, unbroken)


CLASSIFIER_FREE = {"kind": "classifier_free", "scale": 2.0}


@pytest.mark.parametrize("sample", [
    {}, {"precision": "bf16"}, {"precision": "fp16", "sampler": "ddim"}, {"sampler": "unipc", "timestep_respacing": "logsnr10"},
    {"guidance": CLASSIFIER_FREE}, {"clip_denoised": "dynamic"}, {"cuda_graph": True}],
    ids=lambda sample: ", ".join(map(str, sample.values())) or "fp32")
def test_a_chunk_resumed_half_way_ends_with_equal_bits(group, sample):
    spec, device = medium(sample=sample), group.device
    network = fill_with_noise(model_of(spec).network(spec)).to(device).eval()
    labels = np.arange(4) % 10

    def stream() -> torch.Generator:
        return generator_for(device, 0, "sample", 0)
    with computing_in(spec.sample.precision, device):
        begun, unbroken = None, None
        generator = stream()
        for step in steps_of_chunk(spec, network, generator, labels, 4):
            if step.left == 4:
                begun = state_after(step, generator)
            unbroken = step.x
        resumed = [step.x for step in steps_of_chunk(spec, network, stream(), labels, 4, begun)][-1]
    assert begun is not None and unbroken is not None and torch.equal(resumed, unbroken)


@only_gpu
def test_what_does_not_repeat_is_refused_where_repeating_is_asked_for(group, device):
    grid = torch.zeros(1, 4, 4, 2, device=device)
    image = torch.randn(1, 1, 8, 8, device=device, requires_grad=True)
    with pytest.raises(RuntimeError, match="deterministic"):
        torch.nn.functional.grid_sample(image, grid, align_corners=False).sum().backward()
    assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic


