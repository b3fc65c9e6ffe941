"""Measure how noisy the gradient is: the simple noise scale tr(S) / |G|^2, in examples.

G is the true gradient, S the covariance of one example's gradient. The squared norms of the gradients of two batch sizes
give unbiased estimates of |G|^2 and tr(S) (McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", appendix
A.1). A batch much smaller than the scale learns mostly noise. Nichol & Dhariwal 2021, section 3.3, compare their losses by
this scale.
"""

from dataclasses import dataclass

KEPT = 0.9  # share of the running averages that each measurement keeps: one estimate alone may even be negative


@dataclass
class GradientNoise:
    """Running averages of the two estimates over measurements."""

    signal: float = 0.0
    """Estimate of |G|^2."""
    variance: float = 0.0
    """Estimate of tr(S)."""

    def add(self, part_square: float, part_size: int, square: float, size: int) -> dict[str, float]:
        """Add the squared gradient norms of a part of the batch and of the whole batch, and their numbers of examples.

        Return the noise scale under its name in TensorBoard; an empty dict while an average is not positive.
        """
        signal = (size * square - part_size * part_square) / (size - part_size)
        variance = (part_square - square) / (1 / part_size - 1 / size)
        self.signal = KEPT * self.signal + (1 - KEPT) * signal
        self.variance = KEPT * self.variance + (1 - KEPT) * variance
        return {"gradient_noise_scale": self.variance / self.signal} if min(self.signal, self.variance) > 0 else {}


def part_size(batch_size: int, share: int, microbatch: int | None) -> int | None:
    """Return how many examples of a rank's share to compare with the whole batch: at most a microbatch, which fits the memory.

    None for a batch of a single example, which has no smaller part.
    """
    size = microbatch if microbatch and microbatch < share else max(share // 2, 1)
    return size if size < batch_size else None
