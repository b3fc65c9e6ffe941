"""Training objectives by name: losses, and distributions of the timesteps that they are taken at.

No torch is loaded before a timestep sampler is built: a login node reads these tables.
Sources: Ho et al. 2020 (DDPM), Nichol & Dhariwal 2021 (IDDPM).
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from diffusion.lookup import look_up

if TYPE_CHECKING:
    from diffusion.timestep_samplers import TimestepSampler


@dataclass(frozen=True)
class Loss:
    """A loss: the sum of the parts that it has. `losses.training_losses` computes it."""

    mse: bool
    """Has the mean squared error of the network's image channels. This part trains the mean of p."""
    bound: Callable[[int], float] | None
    """bound(T): weight of one term of the variational bound, for a chain of T steps; None: the loss has no such part.
    The bound trains the variance of p, and where there is no mse the mean too."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the values that `training_losses` returns: `loss` is the sum; parts are returned where there is an mse."""
        return ("loss", *(["mse"] if self.mse else []), *(["vb"] if self.mse and self.bound else []))

    @property
    def trains_variance(self) -> bool:
        """A learned variance gets a gradient."""
        return self.bound is not None

    @property
    def needs_learned_variance(self) -> bool:
        """Without a learned variance a part of the loss would train nothing."""
        return self.mse and self.bound is not None


LOSSES: dict[str, Loss] = {
    "simple": Loss(mse=True, bound=None),  # DDPM eq. 14
    # IDDPM eq. 16: 0.001 times the sum of T terms, of which one random term is computed
    "hybrid": Loss(mse=True, bound=lambda steps: steps / 1000.0),
    "vlb": Loss(mse=False, bound=lambda steps: steps),  # IDDPM eq. 4: T times one random term has the sum as its expectation
    "hybrid_unscaled": Loss(mse=True, bound=lambda steps: 1),  # as guided-diffusion has it
    "vlb_unscaled": Loss(mse=False, bound=lambda steps: 1),
}
"""By the name that a spec's `diffusion.loss` takes."""


@dataclass(frozen=True)
class TimestepDistribution:
    """A way to draw the timesteps of a training batch."""

    class_name: str
    """The class in `diffusion.timestep_samplers`."""
    reads_losses: bool
    """`TimestepSampler.update` needs the losses of every batch. Training must then wait for the device."""


TIMESTEP_SAMPLERS: dict[str, TimestepDistribution] = {
    "uniform": TimestepDistribution("UniformSampler", reads_losses=False),
    "loss-second-moment": TimestepDistribution("LossSecondMomentSampler", reads_losses=True),
}
"""By the name that a spec's `train.schedule_sampler` takes."""


def timestep_sampler(name: str, diffusion_steps: int) -> "TimestepSampler":
    """The sampler `name` of TIMESTEP_SAMPLERS for T = diffusion_steps. Raises ValueError for another name."""
    class_name = look_up(TIMESTEP_SAMPLERS, name, "schedule_sampler").class_name
    return getattr(import_module("diffusion.timestep_samplers"), class_name)(diffusion_steps)
