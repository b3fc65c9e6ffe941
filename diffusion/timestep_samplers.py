"""Timesteps for a training batch, with the weights that keep the expectation of the loss. See `objectives` for their names.

A sampler draws for the global batch, on the CPU, from a generator that the caller seeds: all ranks draw equal timesteps, and each
takes its share.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class TimestepSampler(Protocol):
    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Timesteps int64 [batch_size] and the weight of each one's loss, float32 [batch_size]."""

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Learn from the losses [N] of all ranks at timesteps `t` [N], in the order of the global batch. N may be any number."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class UniformSampler:
    """All timesteps are equally probable; all weights are 1."""

    def __init__(self, diffusion_steps: int):
        self.diffusion_steps = diffusion_steps

    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.randint(self.diffusion_steps, (batch_size,), generator=generator), torch.ones(batch_size)

    def update(self, t: Tensor, losses: Tensor) -> None:
        pass

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass


class LossSecondMomentSampler:
    """p_t proportional to sqrt(E[L_t^2]) over the last `history_per_step` losses (Nichol & Dhariwal 2021, eq. 18).

    Uniform until every timestep has a full history. From then on a share `uniform_prob` stays uniform, so that every timestep
    is still drawn.
    """

    def __init__(self, diffusion_steps: int, history_per_step: int = 10, uniform_prob: float = 0.001):
        self.uniform_prob = uniform_prob
        self.history = np.zeros((diffusion_steps, history_per_step))
        self.counts = np.zeros(diffusion_steps, dtype=np.int64)

    @property
    def warmed_up(self) -> bool:
        return bool((self.counts == self.history.shape[1]).all())

    def probabilities(self) -> np.ndarray:
        """p_t, float64 [T], summing to 1."""
        diffusion_steps = len(self.counts)
        if not self.warmed_up:
            return np.full(diffusion_steps, 1 / diffusion_steps)
        root = np.sqrt((self.history ** 2).mean(axis=1))
        return (1 - self.uniform_prob) * root / root.sum() + self.uniform_prob / diffusion_steps

    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        p = torch.from_numpy(self.probabilities())
        t = torch.multinomial(p, batch_size, replacement=True, generator=generator)
        return t, (1 / (len(p) * p[t])).float()

    def update(self, t: Tensor, losses: Tensor) -> None:
        depth = self.history.shape[1]
        for step, loss in zip(t.tolist(), losses.tolist(), strict=True):
            if not np.isfinite(loss):
                continue  # one overflow would make every later probability nan
            if self.counts[step] == depth:
                self.history[step, :-1] = self.history[step, 1:]
                self.history[step, -1] = loss
            else:
                self.history[step, self.counts[step]] = loss
                self.counts[step] += 1

    def state_dict(self) -> dict[str, Tensor]:
        return {"history": torch.from_numpy(self.history.copy()), "counts": torch.from_numpy(self.counts.copy())}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises ValueError where the state has another T or another `history_per_step`."""
        if state["history"].shape != self.history.shape:
            raise ValueError(f"loss history {tuple(state['history'].shape)} does not fit {self.history.shape}")
        self.history, self.counts = state["history"].numpy().copy(), state["counts"].numpy().copy()
