"""The walk down the reverse chain that all samplers share.

A sampler is a generator of its steps, so that its user can show progress, save the state, and stop early.
No step copies anything from the host to the device or waits for the device: see `denoiser`.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from diffusion.samplers.denoiser import At, Denoiser

State = Mapping[str, Tensor]
"""All that a sampler carries from one step to the next, by name, [N, ...] each. `x` is always there; at the beginning of a chain
it is standard normal noise [N, C, H, W], and no other name is needed."""
Randn = Callable[[Tensor], Tensor]
"""randn(x): standard normal noise with the shape, dtype and device of x."""
Advance = Callable[[State, Tensor, At], tuple[State, Tensor]]
"""advance(state, noise [N, C, H, W], at) -> (state after the chain's step `at`, pred_xstart [N, C, H, W]).

`noise` is 0 where a step adds none. Every state has the same names, and advance changes no tensor that it is given."""


@dataclass(frozen=True)
class Step:
    """The chain after step `t`. A sampler that starts from `state` at first_step = t - 1 continues to the same bits."""

    t: int
    state: State
    pred_xstart: Tensor
    """The image that the network predicted in this step, [N, C, H, W]."""

    @property
    def x(self) -> Tensor:
        """x_{t-1}, [N, C, H, W]; the sample where t is 0."""
        return self.state["x"]


class SamplerFunction(Protocol):
    def __call__(self, denoise: Denoiser, state: State, randn: Randn, *, first_step: int | None = None,
                 cuda_graph: bool = False, **settings: Any) -> Iterator[Step]:
        """The steps K-1 .. 0 of the chain of `denoise`, from `state`.

        denoise       the chain, its network, and what guides it
        randn         draws the noise of each step that adds some, in order; the last step adds none
        first_step    begin at this step instead of at K-1, with the state of the `Step` before it
        cuda_graph    record one whole step of each phase, network included, and replay it. Only on a GPU, and only with a network
                      that never waits for the GPU. The numbers are equal; a step costs one launch instead of some hundreds
        settings      see `table.Sampler.settings`
        """


def walk(denoise: Denoiser, advance: Advance, state: State, randn: Randn | None, first_step: int | None, cuda_graph: bool,
         phase: Callable[[int], Hashable] | None = None) -> Iterator[Step]:
    """Steps first_step (None: K-1) .. 0 of the chain of `denoise`, each by `advance`. `randn` None: no step draws noise.

    `phase(step)`: steps with equal phases do the same work; None: those of `denoise`.
    """
    phase = phase or denoise.phase
    steps = range(denoise.diffusion.num_timesteps - 1 if first_step is None else first_step, -1, -1)
    numbers = torch.tensor(steps, dtype=torch.int64, device=state["x"].device)
    no_noise = torch.zeros_like(state["x"])
    recorded: dict[Hashable, Advance] = {}
    for index, step in enumerate(steps):
        with torch.no_grad():
            noise, at = randn(state["x"]) if step and randn is not None else no_noise, At(numbers[index:index + 1], step)
            if cuda_graph and phase(step) not in recorded:
                recorded[phase(step)] = _recorded(advance, state, no_noise, at)
            state, pred_xstart = (recorded[phase(step)] if cuda_graph else advance)(state, noise, at)
        yield Step(step, state, pred_xstart)


def final(steps: Iterable[Step]) -> Tensor:
    """The x [N, C, H, W] after the last of the steps. Raises ValueError where there is none."""
    last = deque(steps, maxlen=1)
    if not last:
        raise ValueError("a walk without steps has no end")
    return last[0].x


def _recorded(advance: Advance, state: State, noise: Tensor, at: At) -> Advance:
    """`advance` at the steps of the phase of `at`, as a CUDA graph, for states with the names and shapes of `state`."""
    names = list(state)

    def flat(noise: Tensor, number: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        after, pred_xstart = advance(dict(zip(names, tensors, strict=True)), noise, At(number, at.step))
        return pred_xstart, *(after[name] for name in names)

    # A replay reads and writes fixed memory: the recording gets memory of its own, and the caller gets copies.
    replay: Callable[..., tuple[Tensor, ...]] = torch.cuda.make_graphed_callables(  # type: ignore[assignment]  # typed as Module
        flat, tuple(tensor.clone() for tensor in (noise, at.number, *state.values())))

    def replayed(state: State, noise: Tensor, at: At) -> tuple[State, Tensor]:
        pred_xstart, *tensors = (tensor.clone() for tensor in replay(noise, at.number, *(state[name] for name in names)))
        return dict(zip(names, tensors, strict=True)), pred_xstart
    return replayed
