"""How noisy the gradient is: the simple noise scale tr(S) / |G|^2, in examples (G: the true gradient, S: one example's covariance).

McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", appendix A.1: the squared norms of gradients of two
batch sizes give unbiased estimates of both. A batch much smaller than the scale learns mostly noise. Nichol & Dhariwal
2021, section 3.3, compare their losses by it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from diffusion.losses import training_losses
from jobs.parallel.precision import autocasting
from jobs.randomness import derived_seed
from jobs.training.batches import Batch

if TYPE_CHECKING:
    from jobs.training.loop import Learner

KEPT = 0.9  # of the running averages at each measurement: a single one may even be negative


@dataclass
class GradientNoise:
    """Running averages of the two estimates."""

    signal: float = 0.0
    """Of |G|^2."""
    variance: float = 0.0
    """Of tr(S)."""

    def add(self, part_square: float, part_size: int, square: float, size: int) -> dict[str, float]:
        """Take in the squared gradient norms of a part of the batch and of all of it, and their numbers of examples.

        Returns the noise scale by its name in TensorBoard: nothing as long as the averages do not allow one.
        """
        signal = (size * square - part_size * part_square) / (size - part_size)
        variance = (part_square - square) / (1 / part_size - 1 / size)
        self.signal = KEPT * self.signal + (1 - KEPT) * signal
        self.variance = KEPT * self.variance + (1 - KEPT) * variance
        return {"gradient_noise_scale": self.variance / self.signal} if min(self.signal, self.variance) > 0 else {}


def part_size(batch_size: int, share: int, microbatch: int | None) -> int | None:
    """Examples of the part of a rank's share that is to be compared with the whole batch: one that fits its memory.

    None where there is no smaller one: a batch of a single example.
    """
    size = microbatch if microbatch and microbatch < share else max(share // 2, 1)
    return size if size < batch_size else None


def part_square(learner: "Learner", batch: Batch, size: int, step: int) -> float:
    """Squared norm of the gradient of the first `size` examples of each rank's share, averaged over ranks; before `step`.

    Leaves parameters and their gradients alone. Waits for the device.
    """
    part, train = batch.split(size)[0], learner.spec.train
    torch.manual_seed(derived_seed(train.seed, "dropout", step, learner.group.rank))
    losses = training_losses(learner.diffusion, autocasting(learner.network, train.precision), part.x_start, part.t, part.noise,
                             learner.spec.diffusion.loss, part.model_kwargs)
    loss = learner.scaler.scale((losses["loss"] * part.weights).mean())
    gradients = torch.autograd.grad(loss, learner.parameters)
    norm = torch.nn.utils.get_total_norm(gradients) / (learner.scaler.get_scale() if learner.scaler.is_enabled() else 1.0)
    square = norm.double() ** 2
    if learner.group.world_size > 1:
        torch.distributed.all_reduce(square)
    return square.item() / learner.group.world_size
