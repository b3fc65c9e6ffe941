"""Train small runs step by step in this process, and read their TensorBoard logs."""

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs.data.dataset import open_data
from jobs.parallel.group import Group
from jobs.run.directory import RunDir
from jobs.spec.kinds import MODEL
from jobs.training.batches import Batches
from jobs.training.state import new_state
from jobs.training.step import TrainingState, train_step

DIGITS = open_data("digits", 8, 1, 10)


def train_some(run: RunDir, group: Group, steps: int) -> tuple[TrainingState, list[float]]:
    """Return the state after `steps` updates, and the norm of each update's gradient."""
    state = new_state(run.spec, group)
    batches = Batches(run.spec, DIGITS, group)(0, steps)
    return state, [train_step(state, examples, step).grad_norms[MODEL].item() for step, examples in enumerate(batches)]


def weights(state: TrainingState) -> dict[str, torch.Tensor]:
    """Return a copy of the trained weights."""
    return {key: value.detach().clone() for key, value in state.parts[MODEL].network.state_dict().items()}


def events(run: RunDir) -> EventAccumulator:
    """Return all that TensorBoard shows of the run."""
    return EventAccumulator(str(run.tensorboard), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def scalars(run: RunDir, tag: str) -> dict[int, float]:
    """Return the logged values by step."""
    return {event.step: event.value for event in events(run).Scalars(tag)}
