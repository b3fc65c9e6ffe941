"""Train small runs step by step, in this process or on several, and read their TensorBoard logs."""

import subprocess
import sys

import torch
from paths import ROOT
from small_runs import places
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs.data.dataset import open_data
from jobs.parallel.group import Group
from jobs.run.directory import RunDir
from jobs.spec.kinds import MODEL
from jobs.training.batches import Batches
from jobs.training.state import new_state
from jobs.training.step import TrainingState, train_step

DIGITS = open_data("digits", 8, 1, 10)
# Trains some steps; then each rank writes all weights, averages, and the gradients of the last step.
STEPS = """
import sys, pathlib, torch
from jobs.parallel.group import process_group
from jobs.run.directory import RunDir
from jobs.data.dataset import open_data
from jobs.training.batches import Batches
from jobs.training.state import new_state
from jobs.training.step import train_step
run, out = RunDir(pathlib.Path(sys.argv[1])), sys.argv[2]
with process_group(pathlib.Path(out).parent / "meeting", threads=1) as group:
    state, norms = new_state(run.spec, group), []
    for step, examples in enumerate(Batches(run.spec, open_data("digits", 8, 1, 10), group)(0, int(sys.argv[3]))):
        norms.append({name: norm.item() for name, norm in train_step(state, examples, step).grad_norms.items()})
    torch.save({"norms": norms, "weights": {name: part.network.state_dict() for name, part in state.parts.items()},
                "averages": state.parts["model"].averages,
                "gradients": {name: [each.grad for each in part.parameters] for name, part in state.parts.items()}},
               f"{out}-{group.rank}")
"""


def train_some(run: RunDir, group: Group, steps: int) -> tuple[TrainingState, list[float]]:
    """Return the state after `steps` updates, and the norm of each update's gradient."""
    state = new_state(run.spec, group)
    batches = Batches(run.spec, DIGITS, group)(0, steps)
    return state, [train_step(state, examples, step).grad_norms[MODEL].item() for step, examples in enumerate(batches)]


def after_steps(run: RunDir, world_size: int, steps: int) -> list[dict]:
    """Train `run` so many steps on `world_size` processes; return what each rank has then (see STEPS)."""
    out = run.path / f"ranks-{world_size}"
    processes = [subprocess.Popen([sys.executable, "-c", STEPS, str(run.path), str(out), str(steps)],
                                  env=environment | {"PYTHONPATH": str(ROOT)}) for environment in places(world_size)]
    assert [process.wait() for process in processes] == [0] * world_size
    return [torch.load(f"{out}-{rank}") for rank in range(world_size)]


def weights(state: TrainingState) -> dict[str, torch.Tensor]:
    """Return a copy of the trained weights."""
    return {key: value.detach().clone() for key, value in state.parts[MODEL].network.state_dict().items()}


def events(run: RunDir) -> EventAccumulator:
    """Return all that TensorBoard shows of the run."""
    return EventAccumulator(str(run.tensorboard), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def scalars(run: RunDir, tag: str) -> dict[int, float]:
    """Return the logged values by step."""
    return {event.step: event.value for event in events(run).Scalars(tag)}
