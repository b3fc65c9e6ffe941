"""Memory of the GPU: what gradient checkpointing saves, what `check` counts, and what is said where memory runs out."""

import pytest
import torch
from noisy_runs import trained
from on_gpu import medium, needs_gpu, only_gpu, random_data

from jobs.cost.count import run_cost
from jobs.run.failures import read_failure
from jobs.stage import run_stage
from jobs.training.batches import Batches
from jobs.training.state import new_state
from jobs.training.step import train_step

pytestmark = needs_gpu


def peak(group, checkpointing: bool | list[int]) -> tuple[int, int]:
    """Return the largest sum of allocations in a step, and what `jobs.cost.count` says of it, in bytes."""
    spec = medium({"gradient_checkpointing": checkpointing, "batch_size": 1024}, dropout=0.0)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(group.device)
    state = new_state(spec, group)
    for step, examples in enumerate(Batches(spec, random_data(spec), group, on_device=False)(0, 3)):
        torch.cuda.reset_peak_memory_stats(group.device)
        train_step(state, examples, step)
    return torch.cuda.max_memory_allocated(group.device) - before, run_cost(spec).training_memory.total


@only_gpu
def test_gradient_checkpointing_saves_memory_and_check_counts_it(group):
    everywhere, some, nowhere = (peak(group, where) for where in (True, [16], False))
    for name, (measured, counted) in {"everywhere": everywhere, "at 16": some, "nowhere": nowhere}.items():
        print(f"\ncheckpointing {name}: {measured / 2 ** 20:.0f} MiB measured, {counted / 2 ** 20:.0f} MiB counted")
        assert measured == pytest.approx(counted, rel=0.35, abs=256 * 2 ** 20)  # libraries take work space of their own
    assert everywhere[0] < 0.6 * nowhere[0] and everywhere[0] < some[0] < nowhere[0]


@only_gpu
@pytest.mark.parametrize("stage, said", [("train", "train.microbatch"), ("sample", "sample.batch_size")])
def test_memory_that_runs_out_is_named_with_what_to_lower(make_gpu_run, monkeypatch, stage, said):
    run = make_gpu_run("evaluate.nll_examples=0", "train.batch_size=4000", "sample.batch_size=4000", "sample.num_samples=4000")
    if stage == "sample":
        trained(run)
    monkeypatch.setattr("jobs.parallel.node_check.check_nodes", lambda group: None)  # takes more memory than is allowed here
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(64 * 2 ** 20 / torch.cuda.get_device_properties(0).total_memory)
    try:
        outcome = run_stage(stage, str(run.path), "test")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    failure = read_failure(run.path)
    assert outcome["state"] == "failed" and failure is not None
    print(f"\n{failure.message}\n{failure.next_step(run.path)}")
    assert failure.kind == "out of GPU memory" and said in failure.next_step(run.path)
