"""Timing several pieces of work in turns, so that what else the machine does falls on all of them alike."""

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import torch

Work = Callable[[], object]
"""One step."""


@dataclass(frozen=True)
class Effort:
    rounds: int
    slice_s: float
    """Each piece of work is repeated for about this long in each round."""


FULL, QUICK = Effort(rounds=9, slice_s=0.4), Effort(rounds=5, slice_s=0.12)


def rates_in_turns(works: Mapping[Hashable, Work], effort: Effort, device: torch.device) -> dict[Hashable, list[float]]:
    """Steps per second of each of `works`, in each round. They are warm already."""
    steps = {name: max(1, round(effort.slice_s / seconds_of(work, 1, device))) for name, work in works.items()}
    rates: dict[Hashable, list[float]] = {name: [] for name in works}
    for _ in range(effort.rounds):
        for name, work in works.items():
            rates[name].append(steps[name] / seconds_of(work, steps[name], device))
    return rates


def seconds_of(work: Work, steps: int, device: torch.device) -> float:
    """From a device that is idle to one that is idle again."""
    synchronize(device)
    began = time.perf_counter()
    for _ in range(steps):
        work()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
