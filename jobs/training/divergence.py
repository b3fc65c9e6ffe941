"""Notice that training has diverged, before its weights are saved as good."""

import torch

from jobs.errors import StageFailed
from jobs.finite import not_finite
from jobs.parallel.group import any_rank
from jobs.run.directory import RunDir
from jobs.training.step import StepResult, TrainingState

MAX_BAD_STEPS = 50  # fp16's loss scale starts at 2**16: the search for a scale that fits can overflow some 20 times in a row
# At the end of training; fewer in a short one. A step that overflows now and then is no divergence, and a network whose
# losses are NaN at the very last steps alone shows that in its samples.
LAST_BAD_STEPS, LAST_BAD_LOSSES = 10, 3


def check_steps(run: RunDir, state: TrainingState, result: StepResult, step: int, saved: int) -> None:
    """Raise StageFailed if training has diverged: the last MAX_BAD_STEPS updates were skipped, or training ends like that.

    `result` is that of update number `step`, `saved` the step of the last checkpoint, 0 for none. All ranks call this
    function after the same steps. Waits for the device.
    """
    parts, train = state.parts.values(), state.spec.train
    bad_steps, skipped = (max(int(count) for count in counts) for counts in ([part.bad_steps for part in parts],
                                                                             [part.skipped for part in parts]))
    if bad_steps >= MAX_BAD_STEPS:
        raise diverged(run, state, f"the gradient was not finite in each of the last {bad_steps} steps (step {step}), and the "
                                   "weights did not change meanwhile", saved)
    if step < train.iterations or not skipped:
        return
    losses_bad = bool(bad_steps) and any_rank(not all(torch.isfinite(loss).all() for loss in result.losses.values()))
    if bad_steps >= min(LAST_BAD_LOSSES if losses_bad else LAST_BAD_STEPS, 1 + train.iterations // 10):
        bad = "the loss" if losses_bad else "the gradient"
        raise diverged(run, state, f"training ends in steps that were skipped: {bad} was not finite in the last {bad_steps} of "
                                   f"{step} steps", saved)
    if train.precision != "fp16" and skipped > step / 2:  # the search for a scale may take most steps of a short training
        raise diverged(run, state, f"{skipped} of {step} steps were skipped, because the gradient was not finite", saved)


def check_weights(run: RunDir, state: TrainingState, step: int, saved: int) -> None:
    """Raise StageFailed if the weights or averages after `step` updates are not finite. All ranks call this function."""
    for part in state.parts.values():
        for weights in (part.network.state_dict(), *part.averages.values()):
            if problem := not_finite(weights):
                raise diverged(run, state, f"the weights after step {step} are not finite ({problem})", saved)


def diverged(run: RunDir, state: TrainingState, what: str, saved: int) -> StageFailed:
    """Return the failure of a training of which `what` is true."""
    advice = "a lower train.lr, train.grad_clip or train.warmup"
    if state.spec.train.precision == "fp16":
        advice += ", or precision: bf16"
    kept = f"the last checkpoint is of step {saved}" if saved else "there is no checkpoint"
    return StageFailed(f"{run.path}: {what}; {kept}. Try {advice}, under another name.", kind="diverged")
