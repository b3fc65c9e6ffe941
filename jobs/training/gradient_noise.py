"""How noisy the gradient is: the simple noise scale tr(S) / |G|^2, in examples.

G is the true gradient, S the covariance of one example's gradient.

McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", appendix A.1: the squared norms of gradients of two
batch sizes give unbiased estimates of both. A batch much smaller than the scale learns mostly noise. Nichol & Dhariwal
2021, section 3.3, compare their losses by it.
"""

from dataclasses import dataclass

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
