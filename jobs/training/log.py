"""Log losses, gradient norms, gradient noise, speed and memory every log_interval steps."""

import resource
import time
from math import isfinite

import torch

from jobs.kinds.protocol import Examples
from jobs.run.board import Board
from jobs.run.progress import Progress
from jobs.spec.kinds import MODEL
from jobs.training.gradient_noise import part_size
from jobs.training.loss_statistics import LossStatistics
from jobs.training.step import StepResult, TrainingState, lr_at, part_square, term_name


class Log:
    """Statistics since the last log, for TensorBoard and the progress file. Only `before` and `write` wait for the device."""

    def __init__(self, state: TrainingState, board: Board, progress: Progress, step: int):
        train, kind = state.spec.train, state.kind
        self.state, self.board, self.progress = state, board, progress
        self.losses = LossStatistics([term_name(name, term) for name in kind.updates for term in kind.terms[name]],
                                     state.group.device)
        self.since, self.first = time.monotonic(), step
        self.part = None
        if tuple(kind.updates) == (MODEL,):  # the noise scale is defined for a single objective
            self.part = part_size(train.batch_size, train.batch_size // state.group.world_size, train.microbatch)
        self.of_part: float | None = None

    def is_due(self, step: int) -> bool:
        """Return whether `step` updates end an interval."""
        train = self.state.spec.train
        return step % train.log_interval == 0 or step == train.iterations

    def before(self, examples: Examples, step: int) -> None:
        """Measure the gradient of a part of the batch if the update that follows will be logged."""
        self.of_part = part_square(self.state, examples, self.part, step) if self.part and self.is_due(step + 1) else None

    def after(self, result: StepResult) -> None:
        """Add the losses of an update."""
        self.losses.add(result.losses, result.inputs)

    def write(self, result: StepResult, step: int) -> None:
        """Log the steps since the last log, after `step` updates."""
        train = self.state.spec.train
        norms = {term_name(name, "grad_norm"): norm.item() for name, norm in result.grad_norms.items()}
        rates = {term_name(name, "lr"): lr_at(step - 1, train, part.lr) for name, part in self.state.parts.items()}
        values = self.losses.collect() | norms | rates | {"samples": step * train.batch_size}
        values |= self._machine(step)
        if self.part and self.of_part and isfinite(self.of_part) and isfinite(norms["grad_norm"]):
            values |= self.state.noise.add(self.of_part, self.part, norms["grad_norm"] ** 2, train.batch_size)
        self.board.scalars(values, step)
        self.progress.loss = values["loss"]

    def restart(self, step: int) -> None:
        """Begin the next interval. Call this after saving and previews, whose time does not count as training."""
        if step % self.state.spec.train.log_interval == 0:
            self.since, self.first = time.monotonic(), step

    def _machine(self, step: int) -> dict[str, float]:
        """Return the speed since the last log, the memory used in GiB, and the loss scale of fp16."""
        group, scaler = self.state.group, self.state.parts[MODEL].scaler
        images = (step - self.first) * self.state.spec.train.batch_size
        values = {"images_per_second": images / (time.monotonic() - self.since)}
        if group.device.type == "cuda":
            values["memory_gib"] = torch.cuda.max_memory_allocated() / 2 ** 30
        else:
            values["memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20
        if scaler.is_enabled():
            values["loss_scale"] = scaler.get_scale()
        return values
